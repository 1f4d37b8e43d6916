"""Data keys of people: read in the transaction that uses them, so that a destroyed key is gone at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from models.audit import SYSTEM, AuditEntry
from models.errors import UserErasedError
from privacy.encryption import Cipher, DataKey, DecryptionError, KeyUnwrapError
from store.audit import entries
from store.connection import Connection

_REWRAPPED_AT_ONCE = 5000

SERVICE_SUBJECT = "~service"
"""Encrypts what belongs to no single person; no user id starts with `~`."""


async def find(connection: Connection, cipher: Cipher, subjects: Iterable[str]) -> dict[str, DataKey | None]:
    """The data keys of some subjects; None for a destroyed one, absent for one that never had a key. Raises
    :class:`DecryptionError` where one doesn't open."""
    found: dict[str, DataKey | None] = {}
    for subject, key in (await find_each(connection, cipher, subjects)).items():
        if isinstance(key, DecryptionError):
            raise key
        found[subject] = key
    return found


async def find_each(
    connection: Connection, cipher: Cipher, subjects: Iterable[str]
) -> dict[str, DataKey | DecryptionError | None]:
    """As :func:`find`, with the failure of a damaged key in its place. Raises :class:`KeyUnwrapError` where the key
    file isn't the right one, which is nobody's own affair."""
    rows = await connection.fetch(
        "SELECT subject, wrapped FROM data_keys WHERE subject = ANY($1::text[])", list(subjects)
    )
    return {subject: None if wrapped is None else _opened(cipher, subject, wrapped) for subject, wrapped in rows}


def _opened(cipher: Cipher, subject: str, wrapped: bytes) -> DataKey | DecryptionError:
    try:
        return cipher.unwrap(subject, wrapped)
    except KeyUnwrapError:
        raise
    except DecryptionError as error:
        return error


async def require(connection: Connection, cipher: Cipher, subject: str) -> DataKey:
    """The data key of one subject; :class:`UserErasedError` where it has been destroyed or never was."""
    key = (await find(connection, cipher, [subject])).get(subject)
    if key is None:
        raise UserErasedError
    return key


async def insert(connection: Connection, wrapped: Mapping[str, bytes]) -> set[str]:
    """Store new keys; says for which subjects. One that has a key, or had one, keeps what it has."""
    rows = await connection.fetch(
        """INSERT INTO data_keys (subject, wrapped)
           SELECT * FROM unnest($1::text[], $2::bytea[])
           ON CONFLICT (subject) DO NOTHING RETURNING subject""",
        list(wrapped),
        list(wrapped.values()),
    )
    return {row["subject"] for row in rows}


async def ensure(connection: Connection, cipher: Cipher, subject: str) -> DataKey:
    """The subject's key, made if there is none; for services' own subjects."""
    key = (await find(connection, cipher, [subject])).get(subject)
    if key is None:
        fresh, wrapped = cipher.new_key(subject)
        if await insert(connection, {subject: wrapped}):
            return fresh
        key = await require(connection, cipher, subject)
    return key


@dataclass(frozen=True)
class Rewrapped:
    """A page of keys: how many got another wrapping, and where the next one begins; None after the last."""

    count: int
    after: str | None


async def rewrap(connection: Connection, cipher: Cipher, after: str, *, actor: str) -> Rewrapped:
    """Wrap the keys of a page of subjects anew where an older key-encryption key has wrapped them; the audit log
    says that ``actor`` did.

    A key that is destroyed meanwhile stays destroyed: only what was read is replaced. Raises
    :class:`privacy.encryption.DecryptionError`.
    """
    rows = await connection.fetch(
        """SELECT subject, wrapped FROM data_keys
            WHERE subject > $1 AND wrapped IS NOT NULL ORDER BY subject LIMIT $2""",
        after,
        _REWRAPPED_AT_ONCE,
    )
    fresh = [(subject, old, cipher.rewrapped(subject, old)) for subject, old in rows]
    stale = [each for each in fresh if each[2] is not None]
    status = await connection.execute(
        """UPDATE data_keys k SET wrapped = n.fresh
             FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (subject, old, fresh)
            WHERE k.subject = n.subject AND k.wrapped = n.old""",
        *([each[place] for each in stale] for place in range(3)),
    )
    count = int(status.rpartition(" ")[2])
    if count:
        await entries.append(connection, [AuditEntry(actor, SYSTEM, "keys.rewrap", details={"keys": count})])
    return Rewrapped(count, rows[-1]["subject"] if rows else None)
