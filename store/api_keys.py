"""API keys and their rate limits.

A key is ``prn_``, 30 random characters of base62 (178 bits), and their CRC32 in six more. So the API rejects a
mistyped key without a query. Only the key's SHA-256 is stored: 178 random bits need no salt and no slow hash.

A rotation gives a key another secret. Its id, roles and rate limit stay, so its callbacks continue. The replaced
secret is valid until it expires.

No process caches a key: the statement that counts a request also reads its roles and limit. So a change, a
rotation or a revocation holds for the next request in every process.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any

from asyncpg import Record
from sqlalchemy import (
    ColumnElement,
    Integer,
    Interval,
    any_,
    bindparam,
    case,
    cast,
    extract,
    func,
    literal,
    literal_column,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy import delete as delete_from
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.audit import Detail
from models.errors import KeyNotFoundError, KeyRevokedError, LastAdminKeyError
from models.tables.access import ApiKey, RateWindow, ReplacedSecret
from models.vocabulary import Role, widest
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
    col(ApiKey.roles),
    col(ApiKey.rate_limit),
    col(ApiKey.created_at),
    col(ApiKey.revoked_at),
]


@dataclass(frozen=True)
class ApiKeyRecord:
    """A stored key, without its secret."""

    key_id: str
    name: str
    roles: Collection[Role]
    rate_limit: int | None
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class AuthenticatedKey:
    """The key of a request, and its rate-limit window, which counts this request."""

    key_id: str
    name: str
    roles: frozenset[Role]
    quota: int
    used: int
    reset_seconds: int
    """1 to 60: the time until the window ends."""

    @property
    def role(self) -> Role:
        """The role whose masks apply to answers."""
        return widest(self.roles)

    @property
    def roles_text(self) -> str:
        """The roles as the audit log names them: `operator`, or `operator,integrator`."""
        return ",".join(_stored(self.roles))

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
    valid = select(
        col(ApiKey.key_id),
        col(ApiKey.name),
        col(ApiKey.roles),
        func.coalesce(col(ApiKey.rate_limit), cast(bindparam("default_quota"), Integer)).label("quota"),
    ).where(col(ApiKey.revoked_at).is_(None))
    by_replaced = valid.join(ReplacedSecret, col(ReplacedSecret.key_id) == col(ApiKey.key_id)).where(
        col(ReplacedSecret.hash) == bindparam("hash"), col(ReplacedSecret.expires_at) > func.now()
    )
    # UNION ALL: each half uses its index. MATERIALIZED: Postgres reads the key's row once, although two parts of
    # the statement use it.
    caller = (
        union_all(valid.where(col(ApiKey.hash) == bindparam("hash")), by_replaced)
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
    roles = frozenset(map(Role, row["roles"]))
    return AuthenticatedKey(row["key_id"], row["name"], roles, row["quota"], row["used"], reset)


_CREATE = statement(
    insert(ApiKey).values(parameters("key_id", "name", "roles", "rate_limit", "hash")).returning(*_STORED)
)


async def create(
    connection: Connection, name: str, roles: Collection[Role], rate_limit: int | None = None
) -> tuple[ApiKeyRecord, str]:
    """Create a key, which may do what any of ``roles`` may; returns it and its secret, which is not stored."""
    secret = new_secret()
    row = await _CREATE.fetchrow(
        connection,
        key_id=f"key_{secrets.token_hex(8)}",
        name=name,
        roles=_stored(roles),
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
    .where(literal(Role.ADMIN.value) == any_(col(ApiKey.roles)), col(ApiKey.revoked_at).is_(None))
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
    await _require_another_admin(connection, key_id)
    row = await _REVOKE.fetchrow(connection, key_id=key_id)
    if row is None:
        raise KeyNotFoundError
    return _record(row)


async def _require_another_admin(connection: Connection, key_id: str) -> None:
    """Lock all admin keys. Raises :class:`LastAdminKeyError` if this is the only one."""
    if [row["key_id"] for row in await _LOCK_ADMINS.fetch(connection)] == [key_id]:
        raise LastAdminKeyError


_THIS = col(ApiKey.key_id) == bindparam("id")
_LOCK = statement(select(*_STORED, col(ApiKey.hash)).where(_THIS).with_for_update())
_CHANGE = statement(
    update(ApiKey).values(parameters("name", "roles", "rate_limit")).where(_THIS).returning(*_STORED)
)


async def change(
    connection: Connection,
    key_id: str,
    *,
    name: str | None = None,
    roles: Collection[Role] | None = None,
    rate_limit: int | EllipsisType | None = ...,
) -> tuple[ApiKeyRecord, ApiKeyRecord]:
    """Change a key from the next request on, in every process; returns it as it was, and as it is.

    None for ``name`` or ``roles``, and ``...`` for ``rate_limit``, leave a value as it is. Raises
    :class:`KeyNotFoundError`, :class:`KeyRevokedError`, or :class:`LastAdminKeyError` if no admin key would
    remain.
    """
    if roles is not None and Role.ADMIN not in roles:
        await _require_another_admin(connection, key_id)
    before, _ = await _locked(connection, key_id)
    row = await _CHANGE.fetchrow(
        connection,
        id=key_id,
        name=before.name if name is None else name,
        roles=_stored(before.roles if roles is None else roles),
        rate_limit=before.rate_limit if rate_limit is ... else rate_limit,
    )
    assert row is not None  # the row is locked
    return before, _record(row)


def change_details(before: ApiKeyRecord, after: ApiKeyRecord) -> dict[str, Detail]:
    """What the audit log says of a change."""
    return {
        "key_id": after.key_id,
        "role_before": ",".join(before.roles),
        "role": ",".join(after.roles),
        "rate_limit_before": before.rate_limit,
        "rate_limit": after.rate_limit,
    }


_DROP_EXPIRED = statement(delete_from(ReplacedSecret).where(col(ReplacedSecret.expires_at) <= func.now()))
_EXPIRES = func.now() + bindparam("keep", type_=Interval())
_SHORTEN = statement(
    update(ReplacedSecret)
    .values(expires_at=func.least(col(ReplacedSecret.expires_at), _EXPIRES))
    .where(col(ReplacedSecret.key_id) == bindparam("id"))
)
_REPLACE = statement(
    insert(ReplacedSecret)
    .values(hash=bindparam("hash"), key_id=bindparam("key_id"), expires_at=_EXPIRES)
    .returning(col(ReplacedSecret.expires_at))
)
_SET_HASH = statement(update(ApiKey).values(hash=bindparam("new_hash")).where(_THIS))


async def rotate(connection: Connection, key_id: str, keep: timedelta) -> tuple[str, datetime]:
    """Give a key another secret, in the caller's transaction; returns it, and the end of the replaced one.

    The replaced secret is valid for ``keep`` more, and earlier ones at most as long. A caller that loses the new
    secret rotates again: until they expire, all of them are valid. Raises :class:`KeyNotFoundError` or
    :class:`KeyRevokedError`.
    """
    _, replaced = await _locked(connection, key_id)
    secret = new_secret()
    await _DROP_EXPIRED.execute(connection)
    await _SHORTEN.execute(connection, id=key_id, keep=keep)
    expires_at: datetime = await _REPLACE.fetchval(connection, hash=replaced, key_id=key_id, keep=keep)
    await _SET_HASH.execute(connection, id=key_id, new_hash=_hash(secret))
    return secret, expires_at


async def _locked(connection: Connection, key_id: str) -> tuple[ApiKeyRecord, bytes]:
    """A key that isn't revoked, and the hash of its secret. The row is locked until the transaction ends."""
    row = await _LOCK.fetchrow(connection, id=key_id)
    if row is None:
        raise KeyNotFoundError
    if row["revoked_at"] is not None:
        raise KeyRevokedError
    return _record(row), row["hash"]


def _stored(roles: Collection[Role]) -> list[str]:
    return [role.value for role in Role if role in roles]


def _record(row: Record) -> ApiKeyRecord:
    values = {field.name: row[field.name] for field in fields(ApiKeyRecord)}
    return ApiKeyRecord(**{**values, "roles": [Role(role) for role in row["roles"]]})
