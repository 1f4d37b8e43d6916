"""Changes of profiles that `user.profile_update` events carry, in any order of arrival.

For each attribute the latest change wins. An event's change counts at the event's timestamp, or at its receipt if
that is earlier. A request's change counts when it is carried out. Of two changes at the same microsecond the
greater value wins, so that the order of arrival doesn't matter then either.

The values with which a profile was created are older than each change, except a historical one from before the
creation: old data completes a profile, and doesn't replace what it was created with.

An opt-out also removes the attribute, at its own time.

A closing is an exception, as `user.account_deletion` is: it counts at any time, and no event opens the account
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from models.errors import FieldError
from models.rules.profile import CORE, DEMOGRAPHICS, Profile
from models.schemas.users import UserChanges
from models.schemas.validation import item_errors
from models.vocabulary import AccountStatus, Purpose

PROFILE_UPDATE = "user.profile_update"
CREATED = "*"
"""The key of the profile's creation among the times of its attributes."""
_CREATION = 0
_BEFORE_CREATION = 1 << 62
"""Historical times from before the creation minus this are less than :data:`_CREATION`, in the same order."""
_CHANGES = "changes"
_DEMOGRAPHIC = "demographics."
_PREFERENCE = "privacy_preferences."
_STATUS = "account_status"
_TIER = "transactions.subscription_tier"
_RESTRICTED = (AccountStatus.CLOSED, AccountStatus.SUSPENDED)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """The changes of one event."""

    at: int
    """Microseconds since 1970 (UTC)."""
    values: Mapping[str, Any]
    """By attribute, as of :func:`by_attribute`."""
    historical: bool = False

    def place(self, created: int) -> int:
        """A number that is greater than those of older changes."""
        return self.at - _BEFORE_CREATION if self.historical and self.at <= created else self.at


def micros(moment: datetime) -> int:
    """Microseconds since 1970 (UTC)."""
    return (moment - _EPOCH) // _MICROSECOND


def errors(properties: Mapping[str, Any]) -> list[FieldError]:
    """Errors in the `changes` of an event, with pointers into its properties."""
    changes = properties.get(_CHANGES)
    if changes is None:
        return []
    try:
        UserChanges.model_validate(changes)
    except ValidationError as error:
        return [each.with_prefix(f"/{_CHANGES}") for each in item_errors(error)]
    return []


def change_of(
    properties: Mapping[str, Any], timestamp: datetime, received_at: datetime, *, historical: bool
) -> ProfileChange | None:
    """The changes of an event; None if it carries none.

    Ingest has checked them. Changes that an earlier version stored unchecked, and that aren't valid, are none.
    """
    changes = properties.get(_CHANGES)
    if changes is None:
        return None
    try:
        patch = UserChanges.model_validate(changes).model_dump(exclude_unset=True)
    except ValidationError:
        return None
    values = by_attribute(patch)
    return ProfileChange(micros(min(timestamp, received_at)), values, historical) if values else None


def restricts(change: ProfileChange) -> bool:
    """Whether a change forbids an attribute, or closes or suspends the account."""
    return change.values.get(_STATUS) in _RESTRICTED or any(
        value is False and name.startswith(_PREFERENCE) for name, value in change.values.items()
    )


def by_attribute(patch: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a patch by attribute, such as `demographics.city`; None removes a value."""
    values: dict[str, Any] = {name: patch[name] for name in CORE if name in patch}
    if "lifecycle_stage_pinned" in patch:
        values["lifecycle_stage_pinned"] = bool(patch["lifecycle_stage_pinned"])
    if "transactions" in patch:
        tier = patch["transactions"]
        if tier is None or "subscription_tier" in tier:
            values[_TIER] = None if tier is None else tier["subscription_tier"]
    for prefix, group in ((_DEMOGRAPHIC, "demographics"), (_PREFERENCE, "privacy_preferences")):
        if group in patch:
            sent = dict.fromkeys(DEMOGRAPHICS) if patch[group] is None else patch[group]
            values |= {prefix + name: value for name, value in sent.items()}
    forbidden = [name for name in DEMOGRAPHICS if values.get(_PREFERENCE + name) is False]
    return values | {_DEMOGRAPHIC + name: None for name in forbidden}


def values_of(profile: Profile) -> dict[str, Any]:
    """The stored values by attribute, without missing ones."""
    values = {
        **{name: getattr(profile, name) for name in CORE},
        "lifecycle_stage_pinned": profile.lifecycle_stage_pinned or None,
        _TIER: profile.subscription_tier,
        **{_DEMOGRAPHIC + name: value for name, value in profile.demographics.items()},
        **{_PREFERENCE + name: value for name, value in profile.privacy_preferences.items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def changed_attributes(before: Profile, after: Profile) -> set[str]:
    old, new = values_of(before), values_of(after)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def resolve(
    profile: Profile, times: Mapping[str, int], changes: Iterable[ProfileChange]
) -> tuple[dict[str, Any], dict[str, int]]:
    """The patch with the changes that win over the profile's values, and the place of each of its attributes.

    ``times`` has the places of attributes that have changed, and the time of :data:`CREATED`.

    Without `data_collection` the patch sets no demographics, since the consent may have been withdrawn after the
    event was stored. It still removes them.
    """
    values = values_of(profile)
    known = dict.fromkeys(values, _CREATION) | {name: at for name, at in times.items() if name != CREATED}
    latest = {name: (at, _rank(values.get(name))) for name, at in known.items()}
    consented = profile.consents_to(Purpose.DATA_COLLECTION)
    won: dict[str, Any] = {}
    for change in changes:
        for name, value in change.values.items():
            if value is not None and name.startswith(_DEMOGRAPHIC) and not consented:
                continue
            place = (change.place(times[CREATED]), _rank(value))
            if name == _STATUS and AccountStatus.CLOSED in (value, won.get(name), profile.account_status):
                value = AccountStatus.CLOSED  # at any time, and no event opens the account again
                place = max(place, latest.get(name, place))
            elif name in latest and place <= latest[name]:
                continue
            latest[name], won[name] = place, value
    return _patch(won), {name: latest[name][0] for name in won}


def _rank(value: Any) -> tuple[bool, str]:
    return value is not None, str(value)


def _patch(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`by_attribute`."""
    patch: dict[str, Any] = {}
    for name, value in values.items():
        group, _, attribute = name.rpartition(".")
        if group:
            patch.setdefault(group, {})[attribute] = value
        else:
            patch[name] = value
    return patch
