"""API keys: made, checked, counted against their limit, listed, revoked.

A key is ``prn_``, 30 random characters of base62 (178 bits) and six of their CRC32, so that a mistyped one is
refused without asking the database. Only the SHA-256 is kept: a random key of that length needs no salt and
no slow hash.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from models.errors import KeyNotFoundError
from models.vocabulary import Role
from store.connection import Connection

WINDOW_SECONDS = 60
_PREFIX = "prn_"
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH = 30
_SUM_LENGTH = 6
_FORM = re.compile(rf"prn_([0-9A-Za-z]{{{_RANDOM_LENGTH}}})([0-9A-Za-z]{{{_SUM_LENGTH}}})")
_COLUMNS = "key_id, name, role, rate_limit, created_at, revoked_at"


@dataclass(frozen=True)
class ApiKeyRecord:
    """A key as it is kept: without its secret."""

    key_id: str
    name: str
    role: Role
    rate_limit: int | None
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class AuthenticatedKey:
    """Who is calling, and where the caller's minute stands with this request counted in."""

    key_id: str
    name: str
    role: Role
    quota: int
    used: int
    reset_seconds: int
    """1 to 60: until the window ends."""

    @property
    def remaining(self) -> int:
        """Requests left in this window."""
        return max(0, self.quota - self.used)

    @property
    def exceeded(self) -> bool:
        """Whether this very request is one too many."""
        return self.used > self.quota


def new_secret() -> str:
    """A new random key, in full."""
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return f"{_PREFIX}{random}{_check_sum(random)}"


def well_formed(secret: str) -> bool:
    """Whether a text can be a key: its form, and its check sum."""
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


async def admit(connection: Connection, secret: str, *, default_quota: int) -> AuthenticatedKey | None:
    """Authenticate and count one request, in one statement; None for an unknown or revoked key.

    The window starts with a key's first request and lasts :data:`WINDOW_SECONDS`. The row lock makes the count
    exact however many processes ask at once. ``now()`` is one value for the whole statement, so a window is
    either over for all of its columns or for none.
    """
    row = await connection.fetchrow(
        """WITH caller AS MATERIALIZED (
               SELECT key_id, name, role, coalesce(rate_limit, $2::integer) AS quota
                 FROM api_keys WHERE hash = $1 AND revoked_at IS NULL),
           spent AS (
               INSERT INTO rate_windows AS w (key_id, started_at, used) SELECT key_id, now(), 1 FROM caller
               ON CONFLICT (key_id) DO UPDATE SET
                   started_at = CASE WHEN w.started_at <= now() - $3::float8 * interval '1 second'
                                     THEN now() ELSE w.started_at END,
                   used = CASE WHEN w.started_at <= now() - $3::float8 * interval '1 second'
                               THEN 1 ELSE w.used + 1 END
               RETURNING used, ceil($3 - extract(epoch FROM now() - started_at))::integer AS reset)
           SELECT key_id, name, role, quota, used, reset FROM caller, spent""",
        _hash(secret),
        default_quota,
        float(WINDOW_SECONDS),
    )
    if row is None:
        return None
    reset = min(max(row["reset"], 1), WINDOW_SECONDS)
    return AuthenticatedKey(row["key_id"], row["name"], Role(row["role"]), row["quota"], row["used"], reset)


async def create(
    connection: Connection, name: str, role: Role, rate_limit: int | None = None
) -> tuple[ApiKeyRecord, str]:
    """A new key, and its secret, which is nowhere to be found afterwards."""
    secret = new_secret()
    row = await connection.fetchrow(
        f"""INSERT INTO api_keys (key_id, name, role, rate_limit, hash) VALUES ($1, $2, $3, $4, $5)
            RETURNING {_COLUMNS}""",
        f"key_{secrets.token_hex(8)}",
        name,
        role,
        rate_limit,
        _hash(secret),
    )
    return _record(row), secret


async def list_keys(
    connection: Connection, *, limit: int | None = None, after: tuple[datetime, str] | None = None
) -> list[ApiKeyRecord]:
    """Keys in the order of their making, revoked ones included, after a (time, id)."""
    rows = await connection.fetch(
        f"""SELECT {_COLUMNS} FROM api_keys
             WHERE $2::timestamptz IS NULL OR (created_at, key_id) > ($2, $3)
             ORDER BY created_at, key_id LIMIT $1""",
        limit,
        *(after or (None, None)),
    )
    return [_record(row) for row in rows]


async def revoke(connection: Connection, key_id: str) -> ApiKeyRecord:
    """Revoke a key, for the very next request in every process; raises :class:`KeyNotFoundError`.

    One that is revoked already keeps its first time.
    """
    row = await connection.fetchrow(
        f"""UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1
            RETURNING {_COLUMNS}""",
        key_id,
    )
    if row is None:
        raise KeyNotFoundError
    return _record(row)


def _record(row: asyncpg.Record | None) -> ApiKeyRecord:
    assert row is not None  # RETURNING gives the row
    return ApiKeyRecord(**{**row, "role": Role(row["role"])})
