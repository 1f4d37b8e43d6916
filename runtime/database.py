"""The pool of connections to Postgres, and transactions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import orjson

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:  # only the stubs make it generic
    _Connection = asyncpg.Connection

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class DatabaseUnreachable(Exception):
    """Postgres is away. A retry finds it back. Nothing was committed, except where the connection broke during
    COMMIT, so whoever retries must be idempotent."""


UNREACHABLE = (DatabaseUnreachable,)
"""What to catch where Postgres may be away."""

_SIGNS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""What asyncpg raises then. Other clients raise some of these too, which is why they are translated here."""


_CLOSE_SECONDS = 2.0


class _PooledConnection(_Connection):
    """A connection without the reset statement that asyncpg sends on every return to the pool, which cost a round
    trip for each use: nothing in a session outlives a use of it. Who needs that has a :meth:`Database.session`."""

    def get_reset_query(self) -> str:
        """Nothing to reset; an open transaction is rolled back all the same."""
        return ""


class Database:
    """A pool of connections. Broken ones are replaced on use, so a restart of Postgres needs no restart here."""

    def __init__(self, url: str, *, size: int, application: str, settings: dict[str, str] | None = None) -> None:
        self._url = url
        self._size = size
        self._settings = {"application_name": f"perennial-{application}", "jit": "off", **(settings or {})}
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Make the pool. It connects on use, so a process may start before Postgres does."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._size,
            command_timeout=30,
            timeout=5,
            server_settings=self._settings,
            init=_prepare,
            connection_class=_PooledConnection,
        )

    async def close(self) -> None:
        """Give the connections back, within two seconds."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection outside a transaction: each statement commits by itself.

        Raises :class:`DatabaseUnreachable`. Do nothing but speak to Postgres while holding it.
        """
        if self._pool is None:
            raise DatabaseUnreachable("the pool is not open")
        try:
            async with self._pool.acquire(timeout=5) as connection:
                yield connection  # type: ignore[misc]  # the proxy has the connection's methods
        except _SIGNS as error:
            if isinstance(error, ValueError):  # an argument that doesn't fit: a bug of ours, not Postgres' absence
                raise
            raise DatabaseUnreachable(type(error).__name__) from error

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """A connection for who leaves something in its session: LISTEN, SET, a session lock.

        It is closed and not given back, so that nothing of it is left also where a statement was cancelled whose
        effect nobody can know any more. Raises :class:`DatabaseUnreachable`.
        """
        async with self.connection() as connection:
            try:
                yield connection
            finally:
                with contextlib.suppress(*_SIGNS):  # it is closed all the same, as when this is cancelled
                    await connection.close(timeout=_CLOSE_SECONDS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a READ COMMITTED transaction, committed on leaving and rolled back on an error."""
        async with self.connection() as connection, connection.transaction():
            yield connection


async def _prepare(connection: Connection) -> None:
    await connection.set_type_codec(
        "jsonb",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda raw: orjson.loads(raw[1:]),
        schema="pg_catalog",
        format="binary",
    )
