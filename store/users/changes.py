"""Applies changes of profiles that events carry, in the transaction of their projection.

The rules are those of `PATCH` (:mod:`models.rules.profile`), without an error: the event is stored already. All
changes of a person in a batch become one write. A change that loses to a newer one, or equals the stored value,
leaves the profile's version.

Nothing here commits, so a change is applied exactly once: with the move of the projector's cursor, or with the
replay of a poison event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from models.rules.folding import UnfoldableError
from models.rules.profile import change
from models.rules.profile_changes import ProfileChange, change_of, resolve, restricts
from privacy.encryption import Cipher, DataKey, DecryptionError
from store.connection import Connection
from store.events.log import LoggedEvent
from store.users import attribute_times, data_keys, stages, users
from store.users.users import LockedUsers

_ACTOR = "system:projector"
NOBODY = LockedUsers({}, {}, frozenset(), {})


async def restricting(connection: Connection, cipher: Cipher, updates: Sequence[LoggedEvent]) -> set[str]:
    """The users whose changes may forbid an attribute, or close or suspend the account.

    Lock their buckets exclusively from the start: two transactions that both share a bucket would deadlock if each
    then wanted it alone. The events themselves are judged later, so one that can't be decrypted is none here.
    """
    keys = await data_keys.find_each(connection, cipher, {each.user_id for each in updates})
    return {each.user_id for each in updates if _restricts(each, keys.get(each.user_id))}


def _restricts(update: LoggedEvent, key: object) -> bool:
    if isinstance(key, DataKey):
        with suppress(DecryptionError, UnfoldableError):
            event = update.decrypted_with(key)
            found = change_of(event.properties, event.timestamp, event.received_at, historical=event.historical)
            return found is not None and restricts(found)
    return False


async def apply(
    connection: Connection, cipher: Cipher, locked: LockedUsers, changes: Mapping[str, Sequence[ProfileChange]]
) -> None:
    """Apply changes to profiles that the transaction has locked and read, before it writes anything else of them.

    Changes of users without a profile are ignored.
    """
    places = await attribute_times.find(connection, changes)
    changed, times = [], {}
    for user_id, each in changes.items():
        if (stored := locked.users.get(user_id)) is not None:
            patch, times[user_id] = resolve(stored.profile, places[user_id], each)
            after = change(stored.profile, patch)
            if after != stored.profile:
                changed.append(after)
    written = {profile.user_id for profile in changed}
    updated = await users.update_locked(connection, cipher, locked, changed, actor=_ACTOR, times=times)
    old = {user_id for user_id, each in changes.items() if all(one.historical for one in each)}
    await stages.record_of_callers(connection, cipher, locked, updated, old)
    await attribute_times.record(
        connection, {user_id: each for user_id, each in times.items() if user_id not in written}
    )
