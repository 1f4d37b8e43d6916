"""Changes to profiles: JSON merge patch (RFC 7396), privacy preferences and consent.

A patch holds the values of the request; None removes a value. The patch is merged first. Then attributes that the
person opted out of are dropped. The remaining demographics of the patch need consent, even if they equal the
stored values. Otherwise the error would reveal stored values to a key that may write but not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

from models.errors import ConsentRequiredError, FieldError
from models.vocabulary import AccountStatus, LifecycleStage, Purpose

DEMOGRAPHICS = ("age", "date_of_birth", "gender", "country", "city", "timezone", "language", "device_type")
CORE = ("email", "name", "signup_date", "account_status", "lifecycle_stage")
"""The required attributes except the id."""


@dataclass(frozen=True)
class Profile:
    """The attributes that requests set. :mod:`models.rules.activity` has those computed from events."""

    user_id: str
    email: str
    name: str
    signup_date: datetime
    account_status: AccountStatus
    lifecycle_stage: LifecycleStage
    lifecycle_stage_pinned: bool = False
    demographics: Mapping[str, Any] = field(default_factory=dict)
    """Without missing attributes: no value is None."""
    privacy_preferences: Mapping[str, bool] = field(default_factory=dict)
    consents: Mapping[str, bool] = field(default_factory=dict)
    """By purpose. A missing purpose counts as denied."""
    subscription_tier: str | None = None

    def consents_to(self, purpose: Purpose) -> bool:
        return self.consents.get(purpose, False)

    def shown_demographics(self, today: date) -> Mapping[str, Any]:
        """The demographics. A stored date of birth gives the age, unless the person has opted out of the age.

        An age that was sent stays stored beside the date, and is shown again once the date is removed.
        """
        born = self.demographics.get("date_of_birth")
        if born is None or self.privacy_preferences.get("age") is False:
            return self.demographics
        return {**self.demographics, "age": age_on(today, date.fromisoformat(born))}


def age_on(today: date, born: date) -> int:
    """Full years. Someone born on 29 February is a year older on 1 March of other years, and never too early."""
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def missing_core(patch: Mapping[str, Any]) -> list[FieldError]:
    """Errors for required attributes that the document lacks."""
    return [FieldError(f"/{name}", "required", "is required") for name in CORE if patch.get(name) is None]


def create(document: Mapping[str, Any]) -> Profile:
    """A profile from a document with all required attributes. Raises :class:`ConsentRequiredError`."""
    empty = Profile(user_id=document["user_id"], **{name: document[name] for name in CORE})
    return _enforce_privacy(_merge(empty, document), document)


def change(profile: Profile, patch: Mapping[str, Any]) -> Profile:
    """Apply a patch. Raises :class:`ConsentRequiredError`."""
    return _enforce_privacy(_merge(profile, patch), patch)


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
    # a removed consent stays on record as withdrawn
    if patch is None:
        return dict.fromkeys(consents, False)
    removed = {purpose: False for purpose, granted in patch.items() if granted is None and purpose in consents}
    given = {purpose: granted for purpose, granted in patch.items() if granted is not None}
    return {**consents, **removed, **given}


def _enforce_privacy(after: Profile, patch: Mapping[str, Any]) -> Profile:
    allowed = {
        name: value
        for name, value in after.demographics.items()
        if after.privacy_preferences.get(name) is not False
    }
    sent = patch.get("demographics") or {}
    if sent.keys() & allowed.keys() and not after.consents_to(Purpose.DATA_COLLECTION):
        raise ConsentRequiredError("Demographic attributes are stored only with the consent 'data_collection'.")
    return replace(after, demographics=allowed)


def withdrawn(before: Profile, after: Profile) -> list[str]:
    return [purpose for purpose, granted in before.consents.items() if granted and not after.consents.get(purpose)]


def restricts_account(before: Profile, after: Profile) -> bool:
    restricted = after.account_status in (AccountStatus.CLOSED, AccountStatus.SUSPENDED)
    return restricted and after.account_status is not before.account_status


def forbids_more(before: Profile, after: Profile) -> bool:
    return any(
        not allowed and before.privacy_preferences.get(name) is not False
        for name, allowed in after.privacy_preferences.items()
    )


def lacks_something(before: Profile, after: Profile) -> bool:
    """Whether a change has removed an attribute."""
    tier_removed = before.subscription_tier is not None and after.subscription_tier is None
    return tier_removed or not before.demographics.keys() <= after.demographics.keys()
