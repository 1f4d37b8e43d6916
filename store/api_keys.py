"""API keys and their rate limits.

A key is ``prn_``, 30 random characters of base62 (178 bits), and their CRC32 in six more. So the API rejects a
mistyped key without a query. Only the key's SHA-256 is stored: 178 random bits need no salt and no slow hash.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from asyncpg import Record
from sqlalchemy import (
    ColumnElement,
    Integer,
    bindparam,
    case,
    cast,
    extract,
    func,
    literal_column,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.errors import KeyNotFoundError, LastAdminKeyError
from models.tables.access import ApiKey, RateWindow
from models.vocabulary import Role
from store.connection import Connection
from store.statements import Statement, filtered, parameters, select, statement

WINDOW_SECONDS = 60
_PREFIX = "prn_"
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH = 30
_SUM_LENGTH = 6
_FORM = re.compile(rf"prn_([0-9A-Za-z]{{{_RANDOM_LENGTH}}})([0-9A-Za-z]{{{_SUM_LENGTH}}})")
_STORED: list[Any] = [
    col(ApiKey.key_id),
    col(ApiKey.name),
    col(ApiKey.role),
    col(ApiKey.rate_limit),
    col(ApiKey.created_at),
    col(ApiKey.revoked_at),
]


@dataclass(frozen=True)
class ApiKeyRecord:
    """A stored key, without its secret."""

    key_id: str
    name: str
    role: Role
    rate_limit: int | None
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class AuthenticatedKey:
    """The key of a request, and its rate-limit window, which counts this request."""

    key_id: str
    name: str
    role: Role
    quota: int
    used: int
    reset_seconds: int
    """1 to 60: the time until the window ends."""

    @property
    def remaining(self) -> int:
        return max(0, self.quota - self.used)

    @property
    def exceeded(self) -> bool:
        return self.used > self.quota


def new_secret() -> str:
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return f"{_PREFIX}{random}{_check_sum(random)}"


def well_formed(secret: str) -> bool:
    """Whether a text has a key's form and check sum."""
    match = _FORM.fullmatch(secret)
    return match is not None and _check_sum(match[1]) == match[2]


def _check_sum(random: str) -> str:
    rest, digits = zlib.crc32(random.encode()), []
    for _ in range(_SUM_LENGTH):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _authenticate_statement() -> Statement:
    # MATERIALIZED: Postgres reads the key's row once, although two parts of the statement use it.
    caller = (
        select(
            col(ApiKey.key_id),
            col(ApiKey.name),
            col(ApiKey.role),
            func.coalesce(col(ApiKey.rate_limit), cast(bindparam("default_quota"), Integer)).label("quota"),
        )
        .where(col(ApiKey.hash) == bindparam("hash"), col(ApiKey.revoked_at).is_(None))
        .cte("caller")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    one: ColumnElement[int] = literal_column("1")
    # now() is constant in the statement: either all columns start a new window, or none does.
    window: ColumnElement[timedelta] = literal_column(f"interval '{WINDOW_SECONDS} seconds'")
    is_over = col(RateWindow.started_at) <= func.now() - window
    age = extract("epoch", func.now() - col(RateWindow.started_at))
    # The upsert's row lock makes the count exact across processes.
    counted = (
        insert(RateWindow)
        .from_select(["key_id", "started_at", "used"], select(caller.c.key_id, func.now(), one))
        .on_conflict_do_update(
            index_elements=["key_id"],
            set_={
                "started_at": case((is_over, func.now()), else_=col(RateWindow.started_at)),
                "used": case((is_over, one), else_=col(RateWindow.used) + one),
            },
        )
        .returning(col(RateWindow.used), cast(func.ceil(extract("epoch", window) - age), Integer).label("reset"))
        .cte("counted")
    )
    return statement(select(*caller.c, *counted.c).select_from(caller).join(counted, true()))


_AUTHENTICATE = _authenticate_statement()


async def authenticate(connection: Connection, secret: str, *, default_quota: int) -> AuthenticatedKey | None:
    """Find the key and count one request in one statement; None for an unknown or revoked key.

    A window starts with the key's first request and lasts :data:`WINDOW_SECONDS`.
    """
    row = await _AUTHENTICATE.fetchrow(connection, hash=_hash(secret), default_quota=default_quota)
    if row is None:
        return None
    reset = min(max(row["reset"], 1), WINDOW_SECONDS)
    return AuthenticatedKey(row["key_id"], row["name"], Role(row["role"]), row["quota"], row["used"], reset)


_CREATE = statement(
    insert(ApiKey).values(parameters("key_id", "name", "role", "rate_limit", "hash")).returning(*_STORED)
)


async def create(
    connection: Connection, name: str, role: Role, rate_limit: int | None = None
) -> tuple[ApiKeyRecord, str]:
    """Create a key; returns it and its secret, which is not stored."""
    secret = new_secret()
    row = await _CREATE.fetchrow(
        connection,
        key_id=f"key_{secrets.token_hex(8)}",
        name=name,
        role=role,
        rate_limit=rate_limit,
        hash=_hash(secret),
    )
    assert row is not None  # RETURNING gives the row
    return _record(row), secret


_LIST = filtered(
    select(*_STORED).order_by(col(ApiKey.created_at), col(ApiKey.key_id)).limit(bindparam("limit")),
    after=tuple_(col(ApiKey.created_at), col(ApiKey.key_id))
    > tuple_(bindparam("created_at"), bindparam("key_id")),
)


async def list_keys(
    connection: Connection, *, limit: int | None = None, after: tuple[datetime, str] | None = None
) -> list[ApiKeyRecord]:
    """Keys by creation time, including revoked ones, after a (time, id)."""
    created_at, key_id = after or (None, None)
    rows = await _LIST.fetch(connection, limit=limit, created_at=created_at, key_id=key_id)
    return [_record(row) for row in rows]


_LOCK_ADMINS = statement(
    select(col(ApiKey.key_id))
    .where(col(ApiKey.role) == Role.ADMIN, col(ApiKey.revoked_at).is_(None))
    .order_by(col(ApiKey.key_id))
    .with_for_update()
)
_REVOKE = statement(
    update(ApiKey)
    .values(revoked_at=func.coalesce(col(ApiKey.revoked_at), func.now()))
    .where(col(ApiKey.key_id) == bindparam("key_id"))
    .returning(*_STORED)
)


async def revoke(connection: Connection, key_id: str) -> ApiKeyRecord:
    """Revoke a key from the next request on, in every process, in the caller's transaction.

    A second revocation keeps the time of the first. Raises :class:`KeyNotFoundError`, or
    :class:`LastAdminKeyError` if no admin key would remain. Of two revocations at once the second waits for the
    first, and then sees it.
    """
    if [row["key_id"] for row in await _LOCK_ADMINS.fetch(connection)] == [key_id]:
        raise LastAdminKeyError
    row = await _REVOKE.fetchrow(connection, key_id=key_id)
    if row is None:
        raise KeyNotFoundError
    return _record(row)


def _record(row: Record) -> ApiKeyRecord:
    return ApiKeyRecord(**{**row, "role": Role(row["role"])})
