"""Names, ids, task queues and payloads of the system's jobs."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from models.rules.sharding import SHARDS
from models.temporal.execution import TemporalPayload

PROJECTOR = "projector"
"""A workflow type, and the projector's name as a consumer of the event log."""
RETENTION = "retention"
CALLBACK = "callback"

RETENTION_ID = "system/retention"

SYSTEM_ACTOR = "system:retention"
"""Requests the scheduled retention runs, as the audit log names it."""


class Queue(StrEnum):
    """The task queues of the system namespace: a backlog in one delays no job of another."""

    PROJECTION = "projection"
    DELIVERY = "delivery"
    MAINTENANCE = "maintenance"


def system_task_queue(task_queue: str, queue: Queue) -> str:
    """The name of a system task queue, from the installation's ``PERENNIAL_TASK_QUEUE``."""
    return f"{task_queue}-{queue}"


def projector_id(shard: int) -> str:
    """The workflow id of a shard's projector."""
    return f"{PROJECTOR}/{shard}"


def retention_id(run_id: str) -> str:
    """The workflow id of a retention run that an admin requests."""
    return f"{RETENTION_ID}/{run_id}"


def callback_id(due: CallbackDue) -> str:
    """The workflow id of a callback."""
    return f"{CALLBACK}/{due.instance_id}/{due.ending}"


class ShardOfLog(TemporalPayload):
    """A shard of the event log."""

    shard: int


ALL_SHARDS = tuple(ShardOfLog(shard=shard) for shard in range(SHARDS))


class CallbackDue(TemporalPayload):
    """The end of an instance that a callback is to report."""

    instance_id: str
    ending: int
    """Ordinal of the end, from 0: a replayed instance ends once more."""

    @property
    def message_id(self) -> str:
        """The same at every attempt, and another one for another end."""
        return f"msg_{self.instance_id}_{self.ending}"


class ReconcileRequest(TemporalPayload):
    """How far the reconciler has come; the first request has the defaults."""

    namespace_id: str | None = None
    """The namespace to which the other fields apply; a namespace that is made anew has another id."""
    since: datetime | None = None
    """Compare runs that closed at this time or later; None: all that Temporal keeps."""
    watching_since: datetime | None = None
    """When the reconciler first looked at this namespace; None: now."""
    after: str = ""
    """The instance after which the search for lost histories continues."""


class ReconcileResult(TemporalPayload):
    """How far one look has come, and how many instances it ended."""

    until: datetime
    ended: int = 0
    watching_since: datetime | None = None
    after: str = ""


class PartitionsMade(TemporalPayload):
    """The months whose partitions were missing, as their first days."""

    months: list[str]


class AuditHead(TemporalPayload):
    """The head of the audit chain after an hour, in hex."""

    hour: datetime
    head: str


class AuditCheckpointResult(TemporalPayload):
    """How many hours a run has checkpointed, and the newest head; None before the first checkpoint."""

    hours: int
    newest: AuditHead | None = None


class RetentionRun(TemporalPayload):
    """A retention run: its id, its requester, its types of data."""

    run_id: str = ""
    """Empty for a scheduled run: Temporal's run id becomes its id."""
    requested_by: str = SYSTEM_ACTOR
    """The id of an API key, or the system's name."""
    data_types: list[str] | None = None
    """None: all types."""


class RetentionPlan(TemporalPayload):
    """The types of data of a run, in order."""

    data_types: list[str]


class PurgeRequest(TemporalPayload):
    """One type of data of a run."""

    run_id: str
    data_type: str


class RetentionOutcome(TemporalPayload):
    """The end of a retention run."""

    run_id: str
    failed: list[str]
    """Types of data that the run could not finish."""
