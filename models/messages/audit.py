"""What the schedule that seals the audit log is called, and what it tells."""

from __future__ import annotations

from datetime import datetime

from models.messages.execution import TemporalMessage

AUDIT_SEAL = "audit_seal"
AUDIT_SEAL_ID = "system/audit-seal"


class AuditHead(TemporalMessage):
    """The head of the chain after an hour: hex."""

    hour: datetime
    head: str


class AuditSealed(TemporalMessage):
    """How many hours a run has sealed, and the newest head; none while nothing was ever sealed."""

    hours: int
    newest: AuditHead | None = None
