"""What the schedule that checkpoints the audit log is called, and what it tells."""

from __future__ import annotations

from datetime import datetime

from models.temporal.execution import TemporalPayload

AUDIT_CHECKPOINT = "audit_checkpoint"
AUDIT_CHECKPOINT_ID = "system/audit-checkpoint"


class AuditHead(TemporalPayload):
    """The head of the chain after an hour: hex."""

    hour: datetime
    head: str


class AuditCheckpointResult(TemporalPayload):
    """How many hours a run has checkpointed, and the newest head; none while nothing was ever checkpointed."""

    hours: int
    newest: AuditHead | None = None
