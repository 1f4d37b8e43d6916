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
    """Postgres does not respond; a later retry may succeed.

    The transaction is not committed, unless the connection broke during COMMIT. So retries must be idempotent.
    """


UNREACHABLE = (DatabaseUnreachableError,)

# :meth:`Database.connection` translates these, because other clients raise some of them too.
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
    """A connection without asyncpg's reset statement on return to the pool, which costs a round trip.

    Callers that change the session's state use :meth:`Database.session`. asyncpg still rolls back an open
    transaction.
    """

    def get_reset_query(self) -> str:
        return ""


class Database:
    """A pool that replaces broken connections on use, so processes survive a restart of Postgres."""

    def __init__(self, url: str, *, size: int, application: str, settings: dict[str, str] | None = None) -> None:
        self._url = url
        self._size = size
        self._settings = {"application_name": f"perennial-{application}", "jit": "off", **(settings or {})}
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Create the pool. It connects on first use, so a process can start before Postgres."""
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

        Raises :class:`DatabaseUnreachableError`. Await only Postgres inside: other tasks wait for the connection.
        """
        if self._pool is None:
            raise DatabaseUnreachableError("the pool is not open")
        try:
            async with self._pool.acquire(timeout=5) as connection:
                yield connection  # type: ignore[misc]  # the proxy has the connection's methods
        except _SIGNS as error:
            if isinstance(error, ValueError):  # a wrong argument type: a bug, not an outage
                raise
            raise DatabaseUnreachableError(type(error).__name__) from error

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """Yield a connection for session state: LISTEN, SET, a session lock.

        Closes it instead of returning it to the pool. A cancelled statement may have taken effect, and closing
        removes its state too. Raises :class:`DatabaseUnreachableError`.
        """
        async with self.connection() as connection:
            try:
                yield connection
            finally:
                with contextlib.suppress(*_SIGNS):  # asyncpg closes it even if close() fails or is cancelled
                    await connection.close(timeout=_CLOSE_SECONDS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection in a READ COMMITTED transaction: commit on exit, roll back on an error."""
        async with self.connection() as connection, connection.transaction():
            yield connection


async def _prepare(connection: Connection) -> None:
    # Postgres' binary format of jsonb is a version byte, 1, and the text.
    await connection.set_type_codec(
        "jsonb",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda raw: orjson.loads(raw[1:]),
        schema="pg_catalog",
        format="binary",
    )
