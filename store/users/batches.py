"""Upserts batches of profiles in a few statements, without deadlocks between overlapping batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import ConsentRequiredError, FieldError, StoreUnavailableError
from models.rules.ingest import DATA_UNREADABLE
from models.rules.profile import Profile, change, create, missing_core
from models.rules.profile_changes import by_attribute
from privacy.encryption import Cipher
from store.connection import Connection
from store.users import attribute_times, stages, users
from store.users.rows import StoredUser

# Each lost race means that another transaction created a user of this batch, so few attempts suffice.
_ATTEMPTS = 20


class _LostRaceError(Exception):
    """Another transaction created a user of this batch after the rows were locked."""


@dataclass(frozen=True)
class UpsertResult:
    """The result of one item: created, changed, unchanged, or rejected with errors."""

    created: bool = False
    changed: bool = False
    errors: tuple[FieldError, ...] = ()


async def upsert(
    connection: Connection,
    cipher: Cipher,
    patches: Sequence[Mapping[str, Any]],
    *,
    actor: str,
    keep_recorded: Collection[str] = (),
) -> list[UpsertResult]:
    """Create or patch the users of a batch, item by item in order; a rejected item changes nothing.

    Each patch has a valid `user_id` and the attributes that the client sent. A grant doesn't reverse a
    withdrawal of a purpose in ``keep_recorded``. An attempt is a savepoint. It locks
    existing rows in the order of their ids, then inserts new ones in that order.
    """
    for _ in range(_ATTEMPTS):
        try:
            async with connection.transaction():
                outcomes, locked, updated = await _attempt(connection, cipher, patches, actor, keep_recorded)
        except _LostRaceError:
            # The rollback has released the attempt's locks, so this can't deadlock.
            continue
        await stages.record_of_callers(connection, cipher, locked, updated)
        return outcomes
    raise StoreUnavailableError


async def _attempt(
    connection: Connection,
    cipher: Cipher,
    patches: Sequence[Mapping[str, Any]],
    actor: str,
    keep_recorded: Collection[str],
) -> tuple[list[UpsertResult], users.LockedUsers, Mapping[str, StoredUser]]:
    locked = await users.lock(connection, cipher, {patch["user_id"] for patch in patches})
    profiles = {user_id: stored.profile for user_id, stored in locked.users.items()}
    outcomes = [_apply(profiles, locked, patch, keep_recorded) for patch in patches]
    new = [profile for user_id, profile in profiles.items() if user_id not in locked.users]
    if new and len(await users.insert_new(connection, cipher, new, actor=actor)) < len(new):
        raise _LostRaceError
    changed = [
        profiles[user_id] for user_id, stored in locked.users.items() if profiles[user_id] != stored.profile
    ]
    times = _times(patches, outcomes, locked)
    updated = await users.update_locked(connection, cipher, locked, changed, actor=actor, times=times)
    await attribute_times.record(
        connection, {user_id: each for user_id, each in times.items() if user_id not in updated}
    )
    return outcomes, locked, updated


def _times(
    patches: Sequence[Mapping[str, Any]], outcomes: Sequence[UpsertResult], locked: users.LockedUsers
) -> dict[str, dict[str, None]]:
    """The attributes that accepted items carry for users who existed before, by user id."""
    times: dict[str, dict[str, None]] = {}
    for patch, outcome in zip(patches, outcomes, strict=True):
        if not outcome.errors and patch["user_id"] in locked.users:
            times.setdefault(patch["user_id"], {}).update(dict.fromkeys(by_attribute(patch)))
    return times


def _apply(
    profiles: dict[str, Profile],
    locked: users.LockedUsers,
    patch: Mapping[str, Any],
    keep_recorded: Collection[str],
) -> UpsertResult:
    """Apply one item to ``profiles``, which contain the changes of earlier items."""
    user_id = patch["user_id"]
    if user_id in locked.unreadable:
        return _rejected(*DATA_UNREADABLE.errors)
    if user_id in locked.erased:
        return _rejected(FieldError("/user_id", "user_erased", "belongs to a user who has been erased"))
    before = profiles.get(user_id)
    if before is None and (missing := missing_core(patch)):
        return _rejected(*missing)
    try:
        after = create(patch) if before is None else change(before, _without_grants(before, patch, keep_recorded))
    except ConsentRequiredError:
        return _rejected(
            FieldError("/demographics", ConsentRequiredError.code, "needs the consent 'data_collection'")
        )
    profiles[user_id] = after
    return UpsertResult(created=before is None, changed=after != before)


def _without_grants(
    before: Profile, patch: Mapping[str, Any], keep_recorded: Collection[str]
) -> Mapping[str, Any]:
    """The patch without grants of consents that the person has withdrawn and that stay withdrawn."""
    given = patch.get("consents") or {}
    kept = {
        purpose
        for purpose, granted in given.items()
        if granted and purpose in keep_recorded and before.consents.get(purpose) is False
    }
    if not kept:
        return patch
    return {**patch, "consents": {purpose: given[purpose] for purpose in given.keys() - kept}}


def _rejected(*errors: FieldError) -> UpsertResult:
    return UpsertResult(errors=errors)
