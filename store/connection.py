"""The connection type, and transaction settings for background work."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def use_background_settings(connection: Connection) -> None:
    """Configure the current transaction for a batch of background work.

    - Postgres plans each statement for its actual parameters: the right index depends on a cutoff or position.
    - COMMIT doesn't wait for the disk. A crash of Postgres may lose the whole transaction. So the caller must be
      able to find the work and do it again.
    """
    await connection.execute(
        """SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
                  set_config('synchronous_commit', 'off', true)"""
    )
