"""Profiles in `users`.

Each read gets the data key in the statement that reads the row, or a later one. So a destroyed key decrypts
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from asyncpg import Record
from sqlalchemy import bindparam, case, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.errors import UserErasedError, UserExistsError, UserNotFoundError
from models.rules.activity import Activity
from models.rules.profile import Profile, forbids_more, lacks_something, restricts_account, withdrawn
from models.tables.people import DataKey as DataKeyRow
from models.tables.people import User
from models.vocabulary import AccountStatus, LifecycleStage
from privacy.encryption import Cipher, DataKey, DecryptionError
from store import idempotency
from store.connection import Connection
from store.consents import consents, locks
from store.consents.consents import ConsentChange
from store.events import redactions
from store.instances import transitions
from store.pages import readable_page
from store.statements import filtered, one_of, select, statement, unnested
from store.users import attribute_times, data_keys
from store.users.attribute_times import TIMES, Times, with_present_time, with_times
from store.users.rows import CONSENTS, STORED, WRITTEN, StoredUser, as_lists, encrypted_row, open_row

_SOURCE = "profile"


@dataclass(frozen=True)
class LockedUsers:
    """Profiles whose rows this transaction has locked."""

    users: Mapping[str, StoredUser]
    keys: Mapping[str, DataKey]
    erased: frozenset[str]
    unreadable: Mapping[str, DecryptionError]
    """Users whose data key or profile is damaged."""


_FIND = statement(
    select(col(DataKeyRow.wrapped), *STORED, CONSENTS)
    .select_from(DataKeyRow)
    .outerjoin(User, col(User.user_id) == col(DataKeyRow.subject))
    .where(col(DataKeyRow.subject) == bindparam("user_id"))
)


async def find(connection: Connection, cipher: Cipher, user_id: str) -> StoredUser:
    """One profile; raises :class:`UserNotFoundError` or :class:`UserErasedError`."""
    row = await _FIND.fetchrow(connection, user_id=user_id)
    if row is None or (row["wrapped"] is not None and row["user_id"] is None):
        raise UserNotFoundError
    if row["wrapped"] is None:
        raise UserErasedError
    return open_row(row, cipher.unwrap(user_id, row["wrapped"]), row["consents"])


_IS_PRESENT = statement(
    select(col(DataKeyRow.wrapped).is_(None).label("erased"), col(User.user_id).is_not(None).label("present"))
    .select_from(DataKeyRow)
    .outerjoin(User, col(User.user_id) == col(DataKeyRow.subject))
    .where(col(DataKeyRow.subject) == bindparam("user_id"))
)


async def require_present(connection: Connection, user_id: str) -> None:
    """Raise :class:`UserNotFoundError` or :class:`UserErasedError` unless the user exists."""
    row = await _IS_PRESENT.fetchrow(connection, user_id=user_id)
    if row is not None and row["erased"]:
        raise UserErasedError
    if row is None or not row["present"]:
        raise UserNotFoundError


_LIST = filtered(
    select(col(DataKeyRow.wrapped), *STORED, CONSENTS)
    .join(User, col(User.user_id) == col(DataKeyRow.subject))
    .where(col(DataKeyRow.wrapped).is_not(None))
    .order_by(col(User.user_id))
    .limit(bindparam("limit")),
    after=col(User.user_id) > bindparam("after"),
    stage=col(User.lifecycle_stage) == bindparam("stage"),
    status=col(User.account_status) == bindparam("status"),
    email=col(User.email_index) == bindparam("email_index"),
)


async def list_page(
    connection: Connection,
    cipher: Cipher,
    *,
    limit: int,
    after: str | None,
    stage: LifecycleStage | None = None,
    status: AccountStatus | None = None,
    email: str | None = None,
) -> list[StoredUser]:
    """Up to ``limit`` profiles by id, after an id, without erased people and without damaged profiles."""
    email_index = None if email is None else cipher.email_index(email)

    def decrypted(row: Record) -> StoredUser:
        stored = open_row(row, cipher.unwrap(row["user_id"], row["wrapped"]), row["consents"])
        if email_index is not None and cipher.email_index(stored.profile.email) != email_index:
            raise DecryptionError("users.email_index isn't that of users.email")
        return stored

    return await readable_page(
        lambda place, number: _LIST.fetch(
            connection, limit=number, after=place, stage=stage, status=status, email_index=email_index
        ),
        decrypted,
        lambda row: str(row["user_id"]),
        after=after,
        limit=limit,
        search=email is not None,
    )


_LOCK = statement(
    select(*STORED).where(one_of(col(User.user_id), "user_ids")).order_by(col(User.user_id)).with_for_update()
)


async def lock(connection: Connection, cipher: Cipher, user_ids: Collection[str]) -> LockedUsers:
    """Lock profiles in the order of their ids, so that two transactions never deadlock, and read them."""
    rows = await _LOCK.fetch(connection, user_ids=list(user_ids))
    # Separate statements, so that they see commits that the lock waited for: an erasure, a consent.
    found = await data_keys.find_readable(connection, cipher, user_ids)
    keys = {subject: key for subject, key in found.items() if isinstance(key, DataKey)}
    unreadable = {subject: key for subject, key in found.items() if isinstance(key, DecryptionError)}
    by_user = await consents.of_users(connection, user_ids)
    users: dict[str, StoredUser] = {}
    for row in rows:
        user_id = row["user_id"]
        if user_id in keys:
            try:
                users[user_id] = open_row(row, keys[user_id], by_user.get(user_id))
            except DecryptionError as error:
                unreadable[user_id] = error
    erased = frozenset(subject for subject, key in found.items() if key is None)
    return LockedUsers(users, keys, erased, unreadable)


async def lock_one(connection: Connection, cipher: Cipher, user_id: str) -> LockedUsers:
    """Lock one profile and read it.

    Raises :class:`UserNotFoundError`, :class:`UserErasedError` or :class:`DecryptionError`.
    """
    locked = await lock(connection, cipher, [user_id])
    if user_id in locked.unreadable:
        raise locked.unreadable[user_id]
    if user_id in locked.erased:
        raise UserErasedError
    if user_id not in locked.users:
        raise UserNotFoundError
    return locked


_LOCK_ROWS = statement(
    select(col(User.user_id))
    .where(one_of(col(User.user_id), "user_ids"))
    .order_by(col(User.user_id))
    .with_for_update()
)


async def lock_rows(connection: Connection, user_ids: Collection[str]) -> None:
    """Lock profiles in the order of their ids without reading them, before consent buckets are locked.

    In the other order, a projector could hold a bucket and wait for a row. It would deadlock with a withdrawal,
    which holds the row and waits for the bucket (:mod:`store.consents.locks`).
    """
    if user_ids:
        await _LOCK_ROWS.execute(connection, user_ids=list(user_ids))


async def create(connection: Connection, cipher: Cipher, profile: Profile, *, actor: str) -> StoredUser:
    """Raises :class:`UserExistsError`, or :class:`UserErasedError` for the id of an erased person."""
    stored = await insert_new(connection, cipher, [profile], actor=actor)
    if profile.user_id in stored:
        return stored[profile.user_id]
    await require_present(connection, profile.user_id)
    raise UserExistsError


_GIVEN = unnested("given", *WRITTEN)
_NOW = func.statement_timestamp()
_VERSION = [col(User.user_id), col(User.version), col(User.created_at), col(User.updated_at), col(User.writes)]
_IS_CLOSED = _GIVEN.c.account_status == AccountStatus.CLOSED

_INSERT = statement(
    insert(User)
    .from_select(
        [each.name for each in WRITTEN] + ["closed_at"],
        select(*_GIVEN.c, case((_IS_CLOSED, _NOW))),
    )
    .returning(*_VERSION)
)


async def insert_new(
    connection: Connection, cipher: Cipher, profiles: Iterable[Profile], *, actor: str
) -> dict[str, StoredUser]:
    """Store the profiles whose ids are free and return them; waits for transactions that insert the same ids.

    The data key is inserted first. Its row decides between two requests that create the same person. It stays
    after an erasure, so the id of an erased person isn't free.
    """
    given = {profile.user_id: profile for profile in sorted(profiles, key=lambda each: each.user_id)}
    keys = {user_id: cipher.new_key(user_id) for user_id in given}
    inserted = await data_keys.insert_new(connection, {user_id: wrapped for user_id, (_, wrapped) in keys.items()})
    new = [profile for profile in given.values() if profile.user_id in inserted]
    if not new:
        return {}
    rows = await _INSERT.fetch(
        connection, **as_lists(encrypted_row(profile, keys[profile.user_id][0], cipher) for profile in new)
    )
    await _record_consents(connection, [({}, profile) for profile in new], actor)
    return {row["user_id"]: _stored(given[row["user_id"]], row, Activity()) for row in rows}


_CHANGED = unnested("given", *WRITTEN, TIMES)
_UPDATE = statement(
    update(User)
    .values(
        {each.name: _CHANGED.c[each.name] for each in WRITTEN if each.name != "user_id"}
        | {
            "version": col(User.version) + 1,
            "updated_at": _NOW,
            "closed_at": case(
                (_CHANGED.c.account_status == AccountStatus.CLOSED, func.coalesce(col(User.closed_at), _NOW))
            ),
            "lifecycle_stage_changed_at": case(
                (_CHANGED.c.lifecycle_stage != col(User.lifecycle_stage), _NOW),
                else_=col(User.lifecycle_stage_changed_at),
            ),
            "attribute_times": with_times(_CHANGED.c.times),
        }
    )
    .where(col(User.user_id) == _CHANGED.c.user_id)
    .returning(*_VERSION)
)


async def update_locked(
    connection: Connection,
    cipher: Cipher,
    locked: LockedUsers,
    changed: Sequence[Profile],
    *,
    actor: str,
    times: Times | None = None,
) -> dict[str, StoredUser]:
    """Write changes to profiles that :func:`lock` has read; each gets its next version.

    ``times`` has the time of each attribute that a change carries; without it, what differs has changed now.

    A withdrawal, an opt-out, a closing or a suspension takes the consent locks exclusively
    (:mod:`store.consents.locks`). After the commit, no transaction stores data or sends a message that it forbids.
    Stored events are redacted later (:mod:`store.events.redactions`). A change of the stage takes them shared:
    :func:`store.users.stages.record_of_callers` records it.
    """
    if not changed:
        return {}
    profiles = {profile.user_id: profile for profile in changed}
    before = {user_id: stored.profile for user_id, stored in locked.users.items()}
    rows = await _UPDATE.fetch(
        connection,
        times=await attribute_times.of_changes(connection, before, changed, times or {}),
        **as_lists(encrypted_row(each, locked.keys[each.user_id], cipher) for each in changed),
    )
    withdrawals = [
        (each.user_id, purpose) for each in changed for purpose in withdrawn(before[each.user_id], each)
    ]
    opted_out = [each.user_id for each in changed if forbids_more(before[each.user_id], each)]
    restricted = [each for each in changed if restricts_account(before[each.user_id], each)]
    await redactions.request(connection, opted_out)
    staged = {each.user_id for each in changed if _moves_stage(before[each.user_id], each)}
    excluded = {*opted_out, *(user_id for user_id, _ in withdrawals), *(each.user_id for each in restricted)}
    if staged or excluded:
        await locks.share_and_exclude(connection, staged, excluded)
    await _record_consents(connection, [(before[each.user_id].consents, each) for each in changed], actor)
    await transitions.cancel_withdrawn(connection, withdrawals)
    closed = [each.user_id for each in restricted if each.account_status is AccountStatus.CLOSED]
    await transitions.cancel_of_closed(connection, closed)
    reduced = (each.user_id for each in changed if lacks_something(before[each.user_id], each))
    await idempotency.forget(connection, {*reduced, *opted_out, *(user_id for user_id, _ in withdrawals)})
    return {
        row["user_id"]: _stored(profiles[row["user_id"]], row, locked.users[row["user_id"]].activity)
        for row in rows
    }


def _moves_stage(before: Profile, after: Profile) -> bool:
    return before.lifecycle_stage is not after.lifecycle_stage


_COUNT_WRITES = statement(
    update(User)
    .values(writes=col(User.writes) + 1)
    .where(one_of(col(User.user_id), "user_ids"))
    .returning(col(User.writes), _NOW)
)


async def count_writes(connection: Connection, user_ids: Collection[str]) -> None:
    """Count a write to profiles whose rows this transaction has locked.

    An integrator's entity tag covers the count. So the tag doesn't tell whether a write changed anything.
    """
    await _COUNT_WRITES.execute(connection, user_ids=list(user_ids))


async def count_write(connection: Connection, stored: StoredUser) -> StoredUser:
    """As :func:`count_writes`; returns the profile with the present time as ``updated_at``."""
    [(writes, now)] = await _COUNT_WRITES.fetch(connection, user_ids=[stored.profile.user_id])
    return replace(stored, writes=writes, updated_at=now)


def _stored(profile: Profile, row: Record, activity: Activity) -> StoredUser:
    return StoredUser(profile, row["version"], row["created_at"], row["updated_at"], row["writes"], activity)


async def _record_consents(
    connection: Connection, profiles: Sequence[tuple[Mapping[str, bool], Profile]], actor: str
) -> None:
    changes = [
        ConsentChange(profile.user_id, purpose, granted)
        for before, profile in profiles
        for purpose, granted in profile.consents.items()
        if before.get(purpose) is not granted
    ]
    await consents.record(connection, changes, source=_SOURCE, actor=actor)


_CLOSE = statement(
    update(User)
    .values(
        account_status=AccountStatus.CLOSED,
        attribute_times=with_present_time("account_status"),
        closed_at=_NOW,
        version=col(User.version) + 1,
        updated_at=_NOW,
    )
    .where(one_of(col(User.user_id), "user_ids"), col(User.account_status) != AccountStatus.CLOSED)
    .returning(col(User.user_id))
)


async def close_accounts(connection: Connection, user_ids: Collection[str]) -> None:
    """Close open accounts, and cancel their instances.

    The caller has locked the rows (:func:`lock_rows`), then the buckets exclusively (:mod:`store.consents.locks`).

    The time until a closed account's erasure begins now, not at the event's timestamp. So a mistaken event can be
    corrected for the whole period, even if it arrives late or in an import.
    """
    rows = await _CLOSE.fetch(connection, user_ids=list(user_ids))
    await transitions.cancel_of_closed(connection, [row["user_id"] for row in rows])


_TIME_ZONE = statement(
    select(col(User.timezone), col(DataKeyRow.wrapped))
    .join(DataKeyRow, col(DataKeyRow.subject) == col(User.user_id))
    .where(col(User.user_id) == bindparam("user_id"), col(DataKeyRow.wrapped).is_not(None))
)


async def time_zone(connection: Connection, cipher: Cipher, user_id: str) -> str | None:
    """The IANA name of a user's time zone; None if it is unknown or the person was erased."""
    row = await _TIME_ZONE.fetchrow(connection, user_id=user_id)
    if row is None or row["timezone"] is None:
        return None
    name: str = cipher.unwrap(user_id, row["wrapped"]).decrypt_json("users.timezone", row["timezone"])
    return name
