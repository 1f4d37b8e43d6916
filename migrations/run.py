"""Runs a migration between its checks, and prepares the event log."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg
from sqlalchemy.exc import DBAPIError

from checks.start import after_migration, before_migration
from migrations.grants import MIGRATION_LOCK
from runtime.database import UNREACHABLE, Database
from runtime.migrate import upgrade
from runtime.settings import ConfigurationError, Settings
from store.events import log, partitions
from store.statements import sql

_LOCK = sql("SELECT pg_advisory_xact_lock(:lock)")  # no SQLModel statement: a function of the session


def migrate_database(settings: Settings) -> None:
    """Bring the schema up to date, and begin a new generation of the log after a logical restore.

    Raises :class:`checks.unmet.UnmetError` before any change if the database can't serve Perennial, and another
    :class:`ConfigurationError` if the migration fails. Runs event loops of its own.
    """
    with suppress(*UNREACHABLE):  # the migration then says why
        asyncio.run(before_migration(settings))
    try:
        upgrade(settings)
    except (OSError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ConfigurationError(
            f"The database can't be migrated ({type(error).__name__}); is it there, and does its role own it?"
        ) from error
    asyncio.run(_prepare_log(settings))


async def _prepare_log(settings: Settings) -> None:
    """Settle the log's generation and create the partitions ahead, as the runtime role."""
    await after_migration(settings)
    database = Database(settings.require_database_url(), size=1, application="migrate")
    await database.open()
    try:
        async with database.transaction() as connection:
            await log.settle_generation(connection)
        async with database.transaction() as connection:
            await _LOCK.execute(connection, lock=MIGRATION_LOCK)
            for month in partitions.months_ahead(datetime.now(UTC).date(), partitions.MONTHS_AHEAD):
                await partitions.ensure(connection, month)
    finally:
        await database.close()
