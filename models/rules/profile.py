"""How a profile changes: JSON merge patch (RFC 7396), the person's preferences, and consent.

Pure functions over :class:`Profile`. A patch is the wire document as plain values, holding only what was
sent; None removes. The order matters: the patch is merged first, then what the preferences forbid is dropped,
and what then remains of the demographics that were sent needs consent. That a value is there already makes no
difference: else a refusal would tell whoever may write, and not read, what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from models.errors import ConsentRequiredError, FieldError
from models.vocabulary import AccountStatus, LifecycleStage, Purpose

DEMOGRAPHICS = ("age", "date_of_birth", "gender", "country", "city", "timezone", "language", "device_type")
CORE = ("email", "name", "signup_date", "account_status", "lifecycle_stage")
"""The core attributes beside the id itself; none may ever be absent."""


@dataclass(frozen=True)
class Profile:
    """What is known of a person by being told. What is computed from events lives elsewhere."""

    user_id: str
    email: str
    name: str
    signup_date: datetime
    account_status: AccountStatus
    lifecycle_stage: LifecycleStage
    lifecycle_stage_pinned: bool = False
    demographics: Mapping[str, Any] = field(default_factory=dict)
    """Only what is there: no attribute is None."""
    privacy_preferences: Mapping[str, bool] = field(default_factory=dict)
    consents: Mapping[str, bool] = field(default_factory=dict)
    """Only what the person has said, by purpose; what isn't there is a refusal."""
    subscription_tier: str | None = None

    def consents_to(self, purpose: Purpose) -> bool:
        """Whether the person has agreed to a purpose."""
        return self.consents.get(purpose, False)


def missing_core(patch: Mapping[str, Any]) -> list[FieldError]:
    """What a document lacks to create a profile from it."""
    return [FieldError(f"/{name}", "required", "is required") for name in CORE if patch.get(name) is None]


def create(document: Mapping[str, Any]) -> Profile:
    """A new profile from a document with all core attributes; raises :class:`ConsentRequiredError`."""
    empty = Profile(user_id=document["user_id"], **{name: document[name] for name in CORE})
    return _settle(_merge(empty, document), document)


def change(profile: Profile, patch: Mapping[str, Any]) -> Profile:
    """A profile after a patch; equal to the one before where it changes nothing.

    Raises :class:`ConsentRequiredError`.
    """
    return _settle(_merge(profile, patch), patch)


def _merge(profile: Profile, patch: Mapping[str, Any]) -> Profile:
    changes = {name: patch[name] for name in CORE if name in patch}
    if "lifecycle_stage_pinned" in patch:
        changes["lifecycle_stage_pinned"] = bool(patch["lifecycle_stage_pinned"])
    for group in ("demographics", "privacy_preferences"):
        if group in patch:
            changes[group] = _merge_group(getattr(profile, group), patch[group])
    if "consents" in patch:
        changes["consents"] = _merge_consents(profile.consents, patch["consents"])
    if "transactions" in patch:
        tier = {"subscription_tier": profile.subscription_tier}
        changes["subscription_tier"] = _merge_group(tier, patch["transactions"]).get("subscription_tier")
    return replace(profile, **changes)


def _merge_group(group: Mapping[str, Any], patch: Mapping[str, Any] | None) -> dict[str, Any]:
    merged = {} if patch is None else {**group, **patch}
    return {name: value for name, value in merged.items() if value is not None}


def _merge_consents(consents: Mapping[str, bool], patch: Mapping[str, bool | None] | None) -> dict[str, bool]:
    """Consents are never forgotten, only withdrawn: to remove one is to refuse it."""
    if patch is None:
        return dict.fromkeys(consents, False)
    removed = {purpose: False for purpose, granted in patch.items() if granted is None and purpose in consents}
    given = {purpose: granted for purpose, granted in patch.items() if granted is not None}
    return {**consents, **removed, **given}


def _settle(after: Profile, patch: Mapping[str, Any]) -> Profile:
    allowed = {
        name: value
        for name, value in after.demographics.items()
        if after.privacy_preferences.get(name) is not False
    }
    sent = patch.get("demographics") or {}
    if sent.keys() & allowed.keys() and not after.consents_to(Purpose.DATA_COLLECTION):
        raise ConsentRequiredError("Demographic attributes are stored only with the consent 'data_collection'.")
    return replace(after, demographics=allowed)
