"""Checks before a process starts: `migrate`, `api` and `worker` call them, and `dev` through these.

A server that doesn't answer stops neither the API nor a worker, which wait for it as before. They check it as soon
as it answers, and then end if a need is unmet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache

from temporalio.client import Client

from checks import postgres, temporal
from checks.clocks import too_far_apart
from checks.unmet import Unmet, UnmetError
from runtime.database import UNREACHABLE, Database
from runtime.migrate import revisions, role_of
from runtime.settings import Settings
from store.connection import Connection

logger = logging.getLogger("perennial.checks")

AGAIN_SECONDS = 1.0
"""The pause before the next attempt at a server that didn't answer."""
PATIENCE_SECONDS = 10.0
"""A namespace may be registered, and its search attributes made, while our processes start."""
_NOT_YET = {
    "temporal_namespace": "Temporal has no such namespace yet",
    "temporal_search_attributes": "Temporal's namespace lacks search attributes yet",
}
_ANSWER_SECONDS = 5.0


@cache
def wanted_schema() -> postgres.Schema:
    return postgres.Schema(*revisions())


async def before_migration(settings: Settings) -> None:
    """Raise :class:`UnmetError` unless the schema can be migrated. Raises DatabaseUnreachableError."""
    owner_setting = f"PERENNIAL_{'MIGRATION_' if settings.migration_database_url else ''}DATABASE_URL"
    owner_url = settings.migration_database_url or settings.require_database_url()
    async with _opened(owner_url, owner_setting) as owner:
        unmet = [*await postgres.server(owner), *await postgres.owner_rights(owner)]
        role = role_of(settings.require_database_url())
        if settings.migration_database_url and role is not None:
            unmet += await postgres.runtime_role(owner, role)
        unmet += too_far_apart(await postgres.skew(owner), "Postgres")
        place = await postgres.identity(owner)
    if not unmet and settings.migration_database_url:
        async with _opened(settings.require_database_url()) as runtime:
            unmet += _same_database(place, await postgres.identity(runtime))
    if unmet:
        raise UnmetError(unmet)


async def after_migration(settings: Settings) -> None:
    """Raise :class:`UnmetError` unless the runtime role can use the schema."""
    async with _opened(settings.require_database_url()) as runtime:
        unmet = await runtime_needs(runtime)
    if unmet:
        raise UnmetError(unmet)


async def runtime_needs(connection: Connection) -> list[Unmet]:
    """The unmet needs of the runtime role's connection, except the clock."""
    # A wrong server can't be judged further: the tables of another version have other rights.
    return (
        await postgres.server(connection)
        or await postgres.schema(connection, wanted_schema())
        or await postgres.runtime_rights(connection)
    )


class StartChecks:
    """The checks of one API or worker process."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._settings = settings
        self._client = client
        wanted_schema()  # now: it reads files
        self._open: dict[str, Callable[[], Awaitable[list[Unmet]]]] = {
            "Postgres": self._check_postgres,
            "Temporal": self._check_temporal,
        }
        self._told_away: set[str] = set()

    async def run(self) -> None:
        """Check the servers that answer and weren't checked yet. Raises :class:`UnmetError`."""
        results = await asyncio.gather(*(self._try(name) for name in list(self._open)))
        if unmet := [each for result in results for each in result]:
            raise UnmetError(unmet)

    @asynccontextmanager
    async def continued(self, stop: Callable[[], object]) -> AsyncIterator[None]:
        """Check the remaining servers as soon as they answer.

        For an unmet need, calls ``stop``, and raises :class:`UnmetError` on exit.
        """
        task = asyncio.create_task(self._rest())
        task.add_done_callback(lambda done: stop() if not done.cancelled() and done.exception() else None)
        try:
            yield
        finally:
            task.cancel()
            [result] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, Exception):
            raise result

    async def _rest(self) -> None:
        while self._open:
            await asyncio.sleep(AGAIN_SECONDS)
            await self.run()

    async def _try(self, name: str) -> list[Unmet]:
        try:
            unmet = await self._open[name]()
        except (*UNREACHABLE, *temporal.AWAY) as error:
            if name not in self._told_away:
                self._told_away.add(name)
                extra = {"error_type": type(error).__name__}
                logger.warning("%s does not answer yet; it is checked as soon as it does", name, extra=extra)
            return []
        del self._open[name]
        return unmet

    async def _check_postgres(self) -> list[Unmet]:
        async with _opened(self._settings.require_database_url()) as runtime:
            unmet = await runtime_needs(runtime)
            unmet += too_far_apart(await postgres.skew(runtime), "Postgres")
            if not unmet and (role := await postgres.is_unprotected(runtime)):
                logger.warning(
                    "the role of PERENNIAL_DATABASE_URL owns the tables, so nothing keeps it from changing the "
                    "audit log; give it a role of its own",
                    extra={"role": role},
                )
            place = await postgres.identity(runtime)
        if unmet or self._settings.migration_database_url is None:
            return unmet
        async with _opened(self._settings.migration_database_url, "PERENNIAL_MIGRATION_DATABASE_URL") as owner:
            return _same_database(place, await postgres.identity(owner)) or await postgres.owner_rights(owner)

    async def _check_temporal(self) -> list[Unmet]:
        clock = asyncio.get_running_loop().time
        deadline = clock() + PATIENCE_SECONDS
        while True:
            async with asyncio.timeout(_ANSWER_SECONDS):
                unmet = await temporal.server(self._client) or await temporal.namespace(self._client)
            if not unmet or unmet[0].code == "temporal_version" or clock() > deadline:
                return unmet
            logger.warning(_NOT_YET[unmet[0].code], extra={"namespace": self._client.namespace})
            await asyncio.sleep(AGAIN_SECONDS)


def _same_database(one: object, other: object) -> list[Unmet]:
    if one == other or None in (one, other):
        return []
    return [
        Unmet(
            "two_databases",
            "PERENNIAL_DATABASE_URL and PERENNIAL_MIGRATION_DATABASE_URL name two databases; Perennial needs one.",
        )
    ]


@asynccontextmanager
async def _opened(url: str, setting: str = "PERENNIAL_DATABASE_URL") -> AsyncIterator[Connection]:
    """Raises :class:`UnmetError` if Postgres refuses the connection, DatabaseUnreachableError if it is away."""
    database = Database(url, size=1, application="checks")
    await database.open()
    try:
        async with database.connection() as connection:
            yield connection
    except UNREACHABLE as error:
        if (unmet := postgres.refusal(error.__cause__, setting)) is not None:
            raise UnmetError([unmet]) from None
        raise
    finally:
        await database.close()
