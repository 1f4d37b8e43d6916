"""Runs migrations as the owner, then sets the rights of the runtime role (:mod:`migrations.grants`).

Everything is one transaction under an advisory lock. So two migrators queue, and a failed migration changes
nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.ext.asyncio import create_async_engine

from migrations.grants import MIGRATION_LOCK, grant
from models.tables.events import Xid8
from models.tables.registry import metadata

_TIMEOUT_SECONDS = 10
_PARTITION = re.compile(r"events_\d{4}_\d\d")

ischema_names.setdefault("xid8", Xid8)
"""SQLAlchemy doesn't know this type of Postgres."""


def migrate() -> None:
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        _run(connection)
    else:
        asyncio.run(_connect_and_run())


async def _connect_and_run() -> None:
    url = context.config.attributes.get("url") or os.environ["PERENNIAL_MIGRATION_DATABASE_URL"]
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1).replace(
            "postgres://", "postgresql+asyncpg://", 1
        ),
        poolclass=pool.NullPool,
        connect_args={"timeout": _TIMEOUT_SECONDS},
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=metadata, compare_server_default=False, include_name=_is_declared
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        context.run_migrations()
        role = context.config.attributes.get("runtime_role")
        if role is not None:
            grant(connection, role)


def _is_declared(name: str | None, kind: str, _parents: Any) -> bool:
    """False for partitions, which are created at run time and not declared."""
    return kind != "table" or name is None or _PARTITION.fullmatch(name) is None


migrate()
