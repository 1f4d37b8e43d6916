"""The system's jobs: their workflows, and the tables of loops and schedules.

Every worker starts the jobs of :data:`LOOPS` and :data:`SCHEDULES`, and serves all of their task queues. Jobs run
in a namespace of their own, so the other namespace lists only instances (ADR 0031).

To add a job, write an activity (``activities/``) and register it in ``worker.py``. Then add a workflow and a table
row here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.client import (
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.common import RetryPolicy

from workflows.system.callback import CallbackWorkflow
from workflows.system.retention import RetentionWorkflow

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditCheckpoints
    from activities.outbox import Outbox
    from activities.partitions import Partitions
    from activities.projector import Projector
    from activities.reconciler import Reconciler
    from activities.redaction import Redactions
    from activities.rollups import Compactor
    from activities.stages import StageSweeps
    from models.temporal.public_text import PublicText
    from models.temporal.system import (
        ALL_SHARDS,
        PROJECTOR,
        RETENTION_ID,
        AuditCheckpointResult,
        AuditHead,
        PartitionsMade,
        Queue,
        ReconcileRequest,
        RetentionRun,
        ShardOfLog,
        StagesSwept,
        projector_id,
        system_task_queue,
    )

T = TypeVar("T")

HEARTBEAT = timedelta(seconds=5)
"""A dead worker's loops move to another worker after this time."""
_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=2))


async def _turn(activity: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run a loop's activity once. The workflow then continues as new, which keeps its history short."""
    return await workflow.execute_activity_method(
        activity,
        args=arguments,
        # Three times as long as the activity runs before it returns (activities/loops.py).
        start_to_close_timeout=timedelta(hours=3),
        heartbeat_timeout=HEARTBEAT,
        retry_policy=_RETRY,
    )


@workflow.defn(name=PROJECTOR)
class ProjectorWorkflow:
    @workflow.run
    async def run(self, shard: ShardOfLog) -> None:
        await _turn(Projector.follow, shard)
        workflow.continue_as_new(shard)


@workflow.defn(name="outbox")
class OutboxWorkflow:
    @workflow.run
    async def run(self) -> None:
        await _turn(Outbox.deliver)
        workflow.continue_as_new()


@workflow.defn(name="redaction")
class RedactionWorkflow:
    @workflow.run
    async def run(self) -> None:
        await _turn(Redactions.apply)
        workflow.continue_as_new()


@workflow.defn(name="compactor")
class CompactorWorkflow:
    @workflow.run
    async def run(self) -> None:
        await _turn(Compactor.run)
        workflow.continue_as_new()


@workflow.defn(name="reconciler")
class ReconcilerWorkflow:
    @workflow.run
    async def run(self, request: ReconcileRequest) -> None:
        workflow.continue_as_new(await _turn(Reconciler.reconcile, request))


@workflow.defn(name="partitions")
class PartitionsWorkflow:
    @workflow.run
    async def run(self) -> PartitionsMade:
        return await workflow.execute_activity_method(
            Partitions.make_ahead, start_to_close_timeout=timedelta(minutes=1)
        )


@workflow.defn(name="stage_sweep")
class StageSweepWorkflow:
    @workflow.run
    async def run(self) -> StagesSwept:
        return await workflow.execute_activity_method(
            StageSweeps.sweep,
            start_to_close_timeout=timedelta(hours=1),
            schedule_to_close_timeout=timedelta(hours=2),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)),
        )


@workflow.defn(name="audit_checkpoint")
class AuditCheckpointWorkflow:
    """Checkpoints the hours that have ended.

    Temporal stores the chain's head and passes it to the next run. So a change in Postgres alone can't alter it.
    """

    @workflow.run
    async def run(self) -> AuditCheckpointResult:
        return await workflow.execute_activity_method(
            AuditCheckpoints.checkpoint,
            _last_head(),
            start_to_close_timeout=timedelta(minutes=30),
            schedule_to_close_timeout=timedelta(hours=2),
            heartbeat_timeout=timedelta(minutes=5),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)),
        )


def _last_head() -> AuditHead | None:
    last = workflow.get_last_completion_result(AuditCheckpointResult)
    return last.newest if last else None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A workflow that every worker starts. The Web UI shows ``summary``, unencrypted."""

    workflow: type[Any]
    workflow_id: str
    queue: Queue
    summary: str
    argument: Any = None

    @property
    def args(self) -> list[Any]:
        return [] if self.argument is None else [self.argument]


@dataclass(frozen=True, kw_only=True)
class Scheduled(Job):
    """A job of a Temporal Schedule, which has the same id. A run that is due while another runs is skipped."""

    every: timedelta
    offset: timedelta = timedelta()
    catchup: timedelta
    """Temporal starts a missed run up to this long after it was due."""
    at_worker_start: bool
    """Each worker starts a run when it starts, and terminates a running one: its queue may have no worker left."""

    def schedule(self, task_queue: str) -> Schedule:
        action = ScheduleActionStartWorkflow(
            self.workflow.run,
            args=self.args,
            id=self.workflow_id,
            task_queue=system_task_queue(task_queue, self.queue),
            static_summary=PublicText(self.summary),
        )
        return Schedule(
            action=action,
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=self.every, offset=self.offset)]),
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=self.catchup),
        )


# If two workers start the same loop, it has one run: the workflow id is the same.
LOOPS: tuple[Job, ...] = (
    *(
        Job(
            workflow=ProjectorWorkflow,
            workflow_id=projector_id(shard.shard),
            queue=Queue.PROJECTION,
            summary=f"Folds shard {shard.shard} of the event log into profiles",
            argument=shard,
        )
        for shard in ALL_SHARDS
    ),
    Job(
        workflow=OutboxWorkflow,
        workflow_id="system/outbox",
        queue=Queue.DELIVERY,
        summary="Delivers outbox entries: signals, starts, cancellations, replays, callbacks",
    ),
    Job(
        workflow=RedactionWorkflow,
        workflow_id="system/redaction",
        queue=Queue.MAINTENANCE,
        summary="Redacts stored events after opt-outs",
    ),
    Job(
        workflow=CompactorWorkflow,
        workflow_id="system/compactor",
        queue=Queue.MAINTENANCE,
        summary="Folds what the projector has appended into the rollups of analytics",
    ),
    Job(
        workflow=ReconcilerWorkflow,
        workflow_id="system/reconciler",
        queue=Queue.MAINTENANCE,
        summary="Compares Temporal's closed runs with the stored instances",
        argument=ReconcileRequest(),
    ),
)

SCHEDULES: tuple[Scheduled, ...] = (
    Scheduled(
        workflow=PartitionsWorkflow,
        workflow_id="system/partitions",
        queue=Queue.MAINTENANCE,
        summary="Makes the partitions of the months to come",
        every=timedelta(days=1),
        catchup=timedelta(days=7),
        at_worker_start=True,
    ),
    Scheduled(
        workflow=StageSweepWorkflow,
        workflow_id="system/stage-sweep",
        queue=Queue.MAINTENANCE,
        summary="Moves lifecycle stages of people without a session",
        every=timedelta(minutes=5),
        catchup=timedelta(minutes=5),
        at_worker_start=False,
    ),
    Scheduled(
        workflow=AuditCheckpointWorkflow,
        workflow_id="system/audit-checkpoint",
        queue=Queue.MAINTENANCE,
        summary="Checkpoints the hours of the audit log",
        every=timedelta(hours=1),
        offset=timedelta(minutes=3),
        catchup=timedelta(hours=1),
        at_worker_start=True,
    ),
    Scheduled(
        workflow=RetentionWorkflow,
        workflow_id=RETENTION_ID,
        queue=Queue.MAINTENANCE,
        summary="Removes expired data",
        every=timedelta(days=1),
        offset=timedelta(hours=2),
        catchup=timedelta(days=2),
        at_worker_start=False,
        argument=RetentionRun(),
    ),
)


def workflows_of(queue: Queue) -> list[type[Any]]:
    """The workflows of a task queue. Callbacks are in no table, because the outbox starts them."""
    found = dict.fromkeys(job.workflow for job in (*LOOPS, *SCHEDULES) if job.queue is queue)
    return [*found, CallbackWorkflow] if queue is Queue.DELIVERY else list(found)
