"""The lifecycle stage of a customer."""

from __future__ import annotations

from models.vocabulary import LifecycleStage
from store.connection import Connection


async def move(connection: Connection, user_id: str, stage: LifecycleStage) -> bool:
    """Move a user to a stage unless it is pinned; says whether anything changed."""
    changed = await connection.fetchval(
        """
        UPDATE users SET lifecycle_stage = $2, version = version + 1, updated_at = now()
        WHERE user_id = $1 AND NOT lifecycle_stage_pinned AND lifecycle_stage <> $2
        RETURNING true
        """,
        user_id,
        stage.value,
    )
    return bool(changed)
