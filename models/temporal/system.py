"""Names, ids, task queues and payloads of the system's jobs."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from models.rules.sharding import SHARDS
from models.temporal.execution import TemporalPayload

PROJECTOR = "projector"
"""A workflow type. Also the projector's name as a consumer of the event log."""
RETENTION = "retention"
CALLBACK = "callback"

RETENTION_ID = "system/retention"

SYSTEM_ACTOR = "system:retention"
"""The requester of scheduled retention runs in the audit log."""


class Queue(StrEnum):
    """The task queues of the system namespace. Jobs of one don't wait for a backlog in another."""

    PROJECTION = "projection"
    DELIVERY = "delivery"
    MAINTENANCE = "maintenance"


def system_task_queue(task_queue: str, queue: Queue) -> str:
    """The name of a system task queue, from the installation's ``PERENNIAL_TASK_QUEUE``."""
    return f"{task_queue}-{queue}"


def projector_id(shard: int) -> str:
    return f"{PROJECTOR}/{shard}"


def retention_id(run_id: str) -> str:
    """For a run that an admin requests."""
    return f"{RETENTION_ID}/{run_id}"


def callback_id(due: CallbackDue) -> str:
    return f"{CALLBACK}/{due.instance_id}/{due.ending}"


class ShardOfLog(TemporalPayload):
    shard: int


ALL_SHARDS = tuple(ShardOfLog(shard=shard) for shard in range(SHARDS))


class CallbackDue(TemporalPayload):
    """The end of an instance that a callback reports."""

    instance_id: str
    ending: int
    """Ordinal of the end, from 0. A replayed instance ends again."""

    @property
    def message_id(self) -> str:
        """The receiver's idempotency key: equal for all attempts at one end, different for each end."""
        return f"msg_{self.instance_id}_{self.ending}"


class ReconcileRequest(TemporalPayload):
    """The reconciler's progress. The first request has the defaults."""

    namespace_id: str | None = None
    """The namespace to which the other fields apply. A namespace that is created again has another id."""
    since: datetime | None = None
    """Compare runs that closed at this time or later; None: all that Temporal keeps."""
    watching_since: datetime | None = None
    """The time of the first reconciliation in this namespace; None: now."""
    after: str = ""
    """The instance after which the search for lost histories continues."""
    swept: bool = False
    """Whether that search has looked at all instances since the first reconciliation."""


class ReconcileResult(TemporalPayload):
    """The progress after one reconciliation, and the number of instances that it ended."""

    until: datetime
    ended: int = 0
    watching_since: datetime | None = None
    after: str = ""
    swept: bool = False


class PartitionsMade(TemporalPayload):
    """The first days of the months whose partitions were missing."""

    months: list[str]


class StagesSwept(TemporalPayload):
    """The people whose lifecycle stage a sweep has looked at, and those of them whom it has moved."""

    due: int
    moved: int


class AuditHead(TemporalPayload):
    """The head of the audit chain after an hour, in hex."""

    hour: datetime
    head: str


class AuditCheckpointResult(TemporalPayload):
    """The number of hours that a run checkpointed, and the newest head; None before the first checkpoint."""

    hours: int
    newest: AuditHead | None = None


class RetentionRun(TemporalPayload):
    run_id: str = ""
    """Empty for a scheduled run, which uses Temporal's run id."""
    requested_by: str = SYSTEM_ACTOR
    """The id of an API key, or :data:`SYSTEM_ACTOR`."""
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
    run_id: str
    failed: list[str]
    """Types of data that the run could not finish."""
