"""Profiles: read, listed, searched, written. Every read opens with a key row of its own statement."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from models.errors import UserErasedError, UserExistsError, UserNotFoundError
from models.rules.activity import Activity
from models.rules.profile import Profile
from models.vocabulary import AccountStatus, LifecycleStage
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.consents import consents, locks, withdrawals
from store.consents.consents import ConsentChange
from store.events import redactions
from store.events.projection import ACTIVITY
from store.users import data_keys
from store.users.rows import NAMES, UNNEST, StoredUser, as_arrays, encrypted_row, open_row

_CONSENTS = """(SELECT jsonb_object_agg(c.purpose, c.granted)
                  FROM consents c WHERE c.user_id = u.user_id) AS consents"""
_SOURCE = "profile"


@dataclass(frozen=True)
class LockedUsers:
    """Profiles that no other transaction changes until this one ends."""

    users: Mapping[str, StoredUser]
    keys: Mapping[str, DataKey]
    erased: frozenset[str]


async def find(connection: Connection, cipher: Cipher, user_id: str) -> StoredUser:
    """One profile; raises :class:`UserNotFoundError` or :class:`UserErasedError`."""
    row = await connection.fetchrow(
        f"""SELECT k.wrapped, u.*, {_CONSENTS}, {ACTIVITY}
              FROM data_keys k LEFT JOIN users u ON u.user_id = k.subject WHERE k.subject = $1""",
        user_id,
    )
    if row is None or (row["wrapped"] is not None and row["user_id"] is None):
        raise UserNotFoundError
    if row["wrapped"] is None:
        raise UserErasedError
    return _open(row, cipher)


async def require_present(connection: Connection, user_id: str) -> None:
    """Raise :class:`UserNotFoundError` or :class:`UserErasedError` unless the user is there; nothing is opened."""
    row = await connection.fetchrow(
        """SELECT k.wrapped IS NULL AS erased, u.user_id IS NOT NULL AS present
             FROM data_keys k LEFT JOIN users u ON u.user_id = k.subject WHERE k.subject = $1""",
        user_id,
    )
    if row is not None and row["erased"]:
        raise UserErasedError
    if row is None or not row["present"]:
        raise UserNotFoundError


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
    """Up to ``limit`` profiles in the order of their ids, after an id. Erased people are not among them."""
    wanted = {"u.user_id >": after, "u.lifecycle_stage =": stage, "u.account_status =": status}
    values: list[object] = [limit]
    conditions = ["k.wrapped IS NOT NULL"]
    for condition, value in wanted.items():
        if value is not None:
            values.append(value)
            conditions.append(f"{condition} ${len(values)}")
    if email is not None:
        values.append(cipher.email_index(email))
        conditions.append(f"u.email_index = ${len(values)}")
    rows = await connection.fetch(
        f"""SELECT k.wrapped, u.*, {_CONSENTS}, {ACTIVITY}
              FROM users u JOIN data_keys k ON k.subject = u.user_id
             WHERE {" AND ".join(conditions)} ORDER BY u.user_id LIMIT $1""",
        *values,
    )
    return [_open(row, cipher) for row in rows]


def _open(row: asyncpg.Record, cipher: Cipher) -> StoredUser:
    return open_row(row, cipher.unwrap(row["user_id"], row["wrapped"]), row["consents"] or {})


async def lock(connection: Connection, cipher: Cipher, user_ids: Collection[str]) -> LockedUsers:
    """Take profiles for change, in the order of their ids, so that two transactions never deadlock."""
    rows = await connection.fetch(
        f"SELECT u.*, {ACTIVITY} FROM users u WHERE u.user_id = ANY($1::text[]) ORDER BY u.user_id FOR UPDATE",
        list(user_ids),
    )
    found = await data_keys.find(connection, cipher, user_ids)
    keys = {subject: key for subject, key in found.items() if key is not None}
    said = await consents.of_users(connection, user_ids)
    users = {
        row["user_id"]: open_row(row, keys[row["user_id"]], said.get(row["user_id"], {}))
        for row in rows
        if row["user_id"] in keys
    }
    return LockedUsers(users, keys, frozenset(found.keys() - keys.keys()))


async def lock_one(connection: Connection, cipher: Cipher, user_id: str) -> LockedUsers:
    """Take one profile for change; raises :class:`UserNotFoundError` or :class:`UserErasedError`."""
    locked = await lock(connection, cipher, [user_id])
    if user_id in locked.erased:
        raise UserErasedError
    if user_id not in locked.users:
        raise UserNotFoundError
    return locked


async def create(connection: Connection, cipher: Cipher, profile: Profile, *, actor: str) -> StoredUser:
    """Store a new profile; raises :class:`UserExistsError`, or :class:`UserErasedError` for an id that stays taken."""
    stored = await insert_new(connection, cipher, [profile], actor=actor)
    if profile.user_id in stored:
        return stored[profile.user_id]
    await data_keys.require(connection, cipher, profile.user_id)
    raise UserExistsError


async def insert_new(
    connection: Connection, cipher: Cipher, profiles: Iterable[Profile], *, actor: str
) -> dict[str, StoredUser]:
    """Store those profiles whose ids are free, and say which; waits for others who insert the same.

    The data key goes first: its row is what decides between two who create the same person, and it outlives
    the profile of an erased one.
    """
    fresh = {profile.user_id: profile for profile in sorted(profiles, key=lambda each: each.user_id)}
    made = {user_id: cipher.new_key(user_id) for user_id in fresh}
    taken = await data_keys.insert(connection, {user_id: wrapped for user_id, (_, wrapped) in made.items()})
    won = [profile for profile in fresh.values() if profile.user_id in taken]
    if not won:
        return {}
    rows = await connection.fetch(
        f"""INSERT INTO users ({NAMES}, closed_at)
            SELECT d.*, CASE WHEN d.account_status = 'closed' THEN statement_timestamp() END
              FROM unnest({UNNEST}) AS d ({NAMES})
            RETURNING user_id, version, created_at, updated_at""",
        *as_arrays(encrypted_row(profile, made[profile.user_id][0], cipher) for profile in won),
    )
    await _record_consents(connection, [({}, profile) for profile in won], actor)
    return {row["user_id"]: _stored(fresh[row["user_id"]], row, Activity()) for row in rows}


async def update(
    connection: Connection,
    cipher: Cipher,
    locked: LockedUsers,
    changed: Sequence[Profile],
    *,
    actor: str,
) -> dict[str, StoredUser]:
    """Write changed profiles over those that :func:`lock` took; each gets its next version.

    Where one permits less than before, the gate of ingest is closed (see :mod:`store.consents.consents.locks`): when
    the transaction has committed, nothing is stored any more that it forbids. What stored events have of an
    attribute that is refused now is on the list of :mod:`store.events.events.redactions` then.
    """
    if not changed:
        return {}
    fresh = {profile.user_id: profile for profile in changed}
    assignments = ", ".join(f"{name} = d.{name}" for name in NAMES.split(", ") if name != "user_id")
    rows = await connection.fetch(
        f"""UPDATE users u SET {assignments}, version = u.version + 1, updated_at = statement_timestamp(),
                   closed_at = CASE WHEN d.account_status = 'closed'
                                    THEN coalesce(u.closed_at, statement_timestamp()) END
              FROM unnest({UNNEST}) AS d ({NAMES}) WHERE u.user_id = d.user_id
            RETURNING u.user_id, u.version, u.created_at, u.updated_at""",
        *as_arrays(encrypted_row(profile, locked.keys[profile.user_id], cipher) for profile in changed),
    )
    before = {user_id: stored.profile for user_id, stored in locked.users.items()}
    activity = {user_id: stored.activity for user_id, stored in locked.users.items()}
    withdrawn = [(each.user_id, purpose) for each in changed for purpose in _withdrawn(before[each.user_id], each)]
    refusing = [each.user_id for each in changed if _forbids_more(before[each.user_id], each)]
    await redactions.ask(connection, refusing)
    await locks.exclude(connection, {*refusing, *(user_id for user_id, _ in withdrawn)})
    await _record_consents(connection, [(before[each.user_id].consents, each) for each in changed], actor)
    await withdrawals.end_instances(connection, withdrawn)
    return {row["user_id"]: _stored(fresh[row["user_id"]], row, activity[row["user_id"]]) for row in rows}


def _withdrawn(before: Profile, after: Profile) -> list[str]:
    """The purposes that were agreed to before and aren't any more."""
    return [purpose for purpose, granted in before.consents.items() if granted and not after.consents.get(purpose)]


def _forbids_more(before: Profile, after: Profile) -> bool:
    """Whether an attribute is forbidden that wasn't before."""
    return any(
        not allowed and before.privacy_preferences.get(name) is not False
        for name, allowed in after.privacy_preferences.items()
    )


def _stored(profile: Profile, row: asyncpg.Record, activity: Activity) -> StoredUser:
    created: datetime = row["created_at"]
    return StoredUser(profile, row["version"], created, row["updated_at"], activity)


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
