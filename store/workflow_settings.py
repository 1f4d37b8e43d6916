"""What an admin has changed of workflows' definitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from store.connection import Connection


@dataclass(frozen=True)
class WorkflowSettings:
    """Overrides of one definition; ``max_attempts`` None leaves the definition's own."""

    max_attempts: int | None = None
    enabled: bool = True


async def all_settings(connection: Connection) -> Mapping[str, WorkflowSettings]:
    """The overrides by workflow id; a workflow without any is absent."""
    rows = await connection.fetch("SELECT workflow_id, max_attempts, enabled FROM workflow_settings")
    return {row["workflow_id"]: WorkflowSettings(row["max_attempts"], row["enabled"]) for row in rows}


async def change(
    connection: Connection,
    workflow_id: str,
    *,
    max_attempts: int | None,
    enabled: bool | None,
    as_defined: bool = False,
) -> WorkflowSettings:
    """Change what is given, keep the rest; returns the overrides as they are now.

    ``as_defined`` takes an override of ``max_attempts`` back.
    """
    row = await connection.fetchrow(
        """
        INSERT INTO workflow_settings AS s (workflow_id, max_attempts, enabled)
        VALUES ($1, $2, coalesce($3, true))
        ON CONFLICT (workflow_id) DO UPDATE
        SET max_attempts = CASE WHEN $4 THEN NULL ELSE coalesce($2, s.max_attempts) END,
            enabled = coalesce($3, s.enabled), changed_at = now()
        RETURNING max_attempts, enabled
        """,
        workflow_id,
        max_attempts,
        enabled,
        as_defined,
    )
    assert row is not None  # RETURNING of an upsert always gives a row
    return WorkflowSettings(row["max_attempts"], row["enabled"])
