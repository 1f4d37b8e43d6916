"""Data keys of people. Each is read in the transaction that uses it, so that destruction takes effect at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    rows = await _FIND.fetch(connection, subjects=list(subjects))
    return {
        subject: None if wrapped is None else _unwrapped(cipher, subject, wrapped) for subject, wrapped in rows
    }


def _unwrapped(cipher: Cipher, subject: str, wrapped: bytes) -> DataKey | DecryptionError:
    try:
        return cipher.unwrap(subject, wrapped)
    except KeyUnwrapError:
        raise
    except DecryptionError as error:
        return error


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
    """The number of rewrapped keys of a page, and its last subject; None after the last page."""

    count: int
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

    Raises :class:`privacy.encryption.DecryptionError`.
    """
    rows = await _PAGE.fetch(connection, after=after)
    rewrapped = [(subject, old, cipher.rewrap(subject, old)) for subject, old in rows]
    stale = [(subject, old, new) for subject, old, new in rewrapped if new is not None]
    count = await _REPLACE.execute(
        connection,
        subject=[subject for subject, _, _ in stale],
        old=[old for _, old, _ in stale],
        new=[new for _, _, new in stale],
    )
    if count:
        await entries.append(connection, [AuditEntry(actor, SYSTEM, "keys.rewrap", details={"keys": count})])
    return Rewrapped(count, rows[-1]["subject"] if rows else None)
