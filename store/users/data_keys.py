"""Data keys of people. Each is read in the transaction that uses it, so that destruction takes effect at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import bindparam, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.audit import SYSTEM, AuditEntry
from models.errors import UserErasedError
from models.tables.people import DataKey as DataKeyRow
from privacy.encryption import Cipher, DataKey, DecryptionError, KeyUnwrapError
from store.audit import entries
from store.connection import Connection
from store.statements import one_of, select, statement, unnested

_REWRAP_PAGE = 5000

Key = TypeVar("Key", bound=DataKey | DecryptionError | None)

SERVICE_SUBJECT = "~service"
"""The subject of data that belongs to no person; no user id starts with `~`."""

_FIND = statement(
    select(col(DataKeyRow.subject), col(DataKeyRow.wrapped)).where(one_of(col(DataKeyRow.subject), "subjects"))
)


async def find(connection: Connection, cipher: Cipher, subjects: Iterable[str]) -> dict[str, DataKey | None]:
    """The data keys of subjects: None for a destroyed key, no entry for a subject that never had one.

    Raises :class:`DecryptionError` for a damaged key.
    """
    found: dict[str, DataKey | None] = {}
    for subject, key in (await find_each(connection, cipher, subjects)).items():
        if isinstance(key, DecryptionError):
            raise key
        found[subject] = key
    return found


async def find_each(
    connection: Connection, cipher: Cipher, subjects: Iterable[str]
) -> dict[str, DataKey | DecryptionError | None]:
    """As :func:`find`, with the error in place of a damaged key.

    Raises :class:`KeyUnwrapError` if this process has the wrong key file, which affects every person.
    """
    found = await _unwrapped(connection, cipher, subjects)
    for key in found.values():
        if isinstance(key, KeyUnwrapError):
            raise key
    return found


async def find_readable(
    connection: Connection, cipher: Cipher, subjects: Iterable[str]
) -> dict[str, DataKey | DecryptionError | None]:
    """As :func:`find_each`, but a missing key-encryption key is an error of its subject if another key opens."""
    return readable(await _unwrapped(connection, cipher, subjects))


async def _unwrapped(
    connection: Connection, cipher: Cipher, subjects: Iterable[str]
) -> dict[str, DataKey | DecryptionError | None]:
    rows = await _FIND.fetch(connection, subjects=list(subjects))
    return {subject: None if wrapped is None else unwrapped(cipher, subject, wrapped) for subject, wrapped in rows}


def unwrapped(cipher: Cipher, subject: str, wrapped: bytes) -> DataKey | DecryptionError:
    """The data key, or the error in its place."""
    try:
        return cipher.unwrap(subject, wrapped)
    except DecryptionError as error:
        return error


def readable(found: dict[str, Key]) -> dict[str, Key]:
    """The given keys. Raises :class:`KeyUnwrapError` if none opens, and a key-encryption key is missing."""
    missing = [key for key in found.values() if isinstance(key, KeyUnwrapError)]
    if missing and not any(isinstance(key, DataKey) for key in found.values()):
        raise missing[0]
    return found


async def require(connection: Connection, cipher: Cipher, subject: str) -> DataKey:
    """The data key of a subject; raises :class:`UserErasedError` if it was destroyed or never existed."""
    key = (await find(connection, cipher, [subject])).get(subject)
    if key is None:
        raise UserErasedError
    return key


_GIVEN = unnested("given", col(DataKeyRow.subject), col(DataKeyRow.wrapped))
_INSERT = statement(
    insert(DataKeyRow)
    .from_select(["subject", "wrapped"], select(*_GIVEN.c))
    .on_conflict_do_nothing(index_elements=["subject"])
    .returning(col(DataKeyRow.subject))
)


async def insert_new(connection: Connection, wrapped: Mapping[str, bytes]) -> set[str]:
    """Store the keys of subjects that never had one; returns those subjects."""
    rows = await _INSERT.fetch(connection, subject=list(wrapped), wrapped=list(wrapped.values()))
    return {row["subject"] for row in rows}


async def ensure(connection: Connection, cipher: Cipher, subject: str) -> DataKey:
    """The key of a service's own subject; creates it if missing."""
    key = (await find(connection, cipher, [subject])).get(subject)
    if key is None:
        new, wrapped = cipher.new_key(subject)
        if await insert_new(connection, {subject: wrapped}):
            return new
        key = await require(connection, cipher, subject)
    return key


@dataclass(frozen=True)
class Rewrapped:
    """The numbers of rewrapped and of damaged keys of a page, and its last subject; None after the last page."""

    count: int
    damaged: int
    after: str | None


_PAGE = statement(
    select(col(DataKeyRow.subject), col(DataKeyRow.wrapped))
    .where(col(DataKeyRow.subject) > bindparam("after"), col(DataKeyRow.wrapped).is_not(None))
    .order_by(col(DataKeyRow.subject))
    .limit(_REWRAP_PAGE)
)
_OLD_AND_NEW = unnested(
    "given", col(DataKeyRow.subject), col(DataKeyRow.wrapped).label("old"), col(DataKeyRow.wrapped).label("new")
)
_REPLACE = statement(
    update(DataKeyRow)
    .values(wrapped=_OLD_AND_NEW.c.new)
    # The comparison with the old value keeps a key destroyed that was destroyed since it was read.
    .where(col(DataKeyRow.subject) == _OLD_AND_NEW.c.subject, col(DataKeyRow.wrapped) == _OLD_AND_NEW.c.old)
)


async def rewrap(connection: Connection, cipher: Cipher, after: str, *, actor: str) -> Rewrapped:
    """Rewrap a page of keys with the current key-encryption key, unless it already wraps them; audited.

    A damaged key stays as it is. Raises :class:`KeyUnwrapError` if the key ring lacks a key-encryption key.
    """
    rows = await _PAGE.fetch(connection, after=after)
    stale: list[tuple[str, bytes, bytes]] = []
    damaged = 0
    for subject, old in rows:
        try:
            new = cipher.rewrap(subject, old)
        except KeyUnwrapError:
            raise
        except DecryptionError:
            damaged += 1
        else:
            stale += [(subject, old, new)] if new is not None else []
    count = await _REPLACE.execute(
        connection,
        subject=[subject for subject, _, _ in stale],
        old=[old for _, old, _ in stale],
        new=[new for _, _, new in stale],
    )
    if count:
        await entries.append(connection, [AuditEntry(actor, SYSTEM, "keys.rewrap", details={"keys": count})])
    return Rewrapped(count, damaged, rows[-1]["subject"] if rows else None)
