"""The connection pool to Postgres, and transactions."""

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


class DatabaseUnreachableError(Exception):
    """Postgres does not answer; a later retry can succeed.

    Nothing was committed, unless the connection broke during COMMIT. So every retry must be idempotent.
    """


UNREACHABLE = (DatabaseUnreachableError,)

# Other clients raise some of these too, which is why :meth:`Database.connection` translates them.
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

_CLOSE_SECONDS = 2.0


class _PooledConnection(_Connection):
    """A connection without asyncpg's reset statement on every return to the pool, which cost a round trip.

    No use of a pooled connection leaves state in the session; :meth:`Database.session` is for those that do.
    asyncpg still rolls back an open transaction.
    """

    def get_reset_query(self) -> str:
        return ""


class Database:
    """A pool of connections. A use replaces a broken one, so a restart of Postgres needs no restart here."""

    def __init__(self, url: str, *, size: int, application: str, settings: dict[str, str] | None = None) -> None:
        self._url = url
        self._size = size
        self._settings = {"application_name": f"perennial-{application}", "jit": "off", **(settings or {})}
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Make the pool. It connects on first use, so a process can start before Postgres does."""
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
        """Close the connections, within two seconds."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection outside a transaction: each statement commits by itself.

        Raises :class:`DatabaseUnreachableError`. Await nothing but Postgres inside, or others wait for the pool.
        """
        if self._pool is None:
            raise DatabaseUnreachableError("the pool is not open")
        try:
            async with self._pool.acquire(timeout=5) as connection:
                yield connection  # type: ignore[misc]  # the proxy has the connection's methods
        except _SIGNS as error:
            if isinstance(error, ValueError):  # an argument of the wrong type: a bug of ours, and no outage
                raise
            raise DatabaseUnreachableError(type(error).__name__) from error

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """Yield a connection for state of the session: LISTEN, SET, a session lock.

        Closes it instead of returning it to the pool. So no state is left, even after a cancelled statement,
        which may or may not have taken effect. Raises :class:`DatabaseUnreachableError`.
        """
        async with self.connection() as connection:
            try:
                yield connection
            finally:
                with contextlib.suppress(*_SIGNS):  # asyncpg closes it also on an error or a cancellation
                    await connection.close(timeout=_CLOSE_SECONDS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection in a READ COMMITTED transaction: commit on exit, roll back on an error."""
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
