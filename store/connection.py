"""The connection that every statement runs on, and settings of a transaction."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def use_background_settings(connection: Connection) -> None:
    """Configure the present transaction for a batch of background work.

    - Postgres plans each statement for its actual parameters: a cutoff or position decides which index is right.
    - COMMIT doesn't wait for the disk. After a crash of Postgres the whole transaction may be lost, so the work
      must be one that is found and done again.
    """
    await connection.execute(
        """SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
                  set_config('synchronous_commit', 'off', true)"""
    )
