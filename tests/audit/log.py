"""The audit log in tests: rows of the past, checkpoints, verification."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from temporalio.testing import ActivityEnvironment

from activities.audit import AuditCheckpoints
from models.temporal.system import AuditCheckpointResult, AuditHead
from privacy.audit_chain import CheckpointKey
from runtime.database import Database
from store.audit import verification
from store.audit.verification import Verified


def hours_ago(hours: int, minutes: int = 0) -> datetime:
    """The beginning of a past hour, plus minutes."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return now - timedelta(hours=hours) + timedelta(minutes=minutes)


@dataclass(frozen=True)
class Log:
    """The log, with the runtime role's pool and a superuser's connection."""

    database: Database
    superuser: asyncpg.Connection[asyncpg.Record]
    key: CheckpointKey

    async def add(self, occurred_at: datetime, user_id: str = "u-1", **columns: Any) -> int:
        """Insert a row of the past; return its id."""
        values = {
            "actor": "key-1",
            "role": "admin",
            "action": "users.read",
            "outcome": "done",
            "user_id": user_id,
            "occurred_at": occurred_at,
            **columns,
        }
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        audit_id: int = await self.superuser.fetchval(
            f"INSERT INTO audit_log ({', '.join(values)}) VALUES ({places}) RETURNING audit_id", *values.values()
        )
        return audit_id

    async def fill(self, *hours: int, rows: int = 3) -> None:
        """Insert rows into each of these hours, given as hours ago."""
        for hour in hours:
            for minute in range(rows):
                await self.add(hours_ago(hour, minute), f"u-{minute}", details='{"n": 1}', subjects=["u-7", "u-8"])

    async def checkpoint(self, previous: AuditHead | None = None) -> AuditCheckpointResult:
        checkpointing = AuditCheckpoints(self.database, self.key)
        checkpointed: AuditCheckpointResult = await ActivityEnvironment().run(checkpointing.checkpoint, previous)
        return checkpointed

    async def verify(self, head: bytes | None = None) -> Verified:
        async with self.database.transaction() as connection:
            return await verification.verify(connection, self.key, head)

    async def rows(self) -> list[dict[str, Any]]:
        """All rows, the oldest first."""
        async with self.database.connection() as connection:
            found = await connection.fetch("SELECT * FROM audit_log ORDER BY occurred_at, audit_id")
        return [dict(row) for row in found]
