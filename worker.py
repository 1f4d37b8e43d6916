"""The composition root of the worker process: it builds all workers, starts the system's jobs, and stops in order.

One process polls four task queues over one connection: the instances' queue in their namespace, and three queues
of system jobs in the system namespace. Each queue has its own slots, so a backlog in one delays no other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.service import RPCError
from temporalio.worker import Interceptor, PollerBehaviorAutoscaling, Worker, WorkerDeploymentConfig

from activities.audit import AuditCheckpoints
from activities.authored import Dependencies, authored_activities
from activities.callbacks import Callbacks
from activities.events import Events
from activities.http import HttpRequests
from activities.instances import Instances
from activities.messages import Messages
from activities.outbox import Outbox
from activities.partitions import Partitions, owner_database
from activities.profiles import Clocks, Profiles
from activities.projector import Projector
from activities.reconciler import Reconciler
from activities.recording import StepRecorder
from activities.redaction import Redactions
from activities.retention import Retention, set_history_retention
from activities.rollups import Compactor
from activities.stages import StageSweeps
from activities.starts import Starts
from checks import temporal
from checks.clocks import too_far_apart
from checks.lag import watched
from checks.start import StartChecks
from checks.unmet import UnmetError
from delivery.smtp import SmtpTransport
from delivery.transport import Transport
from delivery.webhook import WebhookTransport
from models.rules.sharding import SHARDS
from models.rules.stages import Periods
from models.temporal.public_text import PublicText
from models.temporal.starting import Startable
from models.temporal.system import Queue, system_task_queue
from models.vocabulary import Channel
from privacy.audit_chain import CheckpointKey
from privacy.encryption import Cipher
from privacy.keyring import KeyFile, KeyRing
from privacy.masking import schema_choices
from runtime.database import Database
from runtime.process import announce_ready, collect_garbage_rarely, polling, stop_event, unless
from runtime.provisioning import (
    ensure_namespace,
    ensure_running,
    ensure_schedule,
    has_namespace,
    in_namespace,
    provisioned,
)
from runtime.settings import ConfigurationError, Settings
from runtime.telemetry import configure_logging, configure_tracing
from runtime.temporal import EncryptedPayloads, connect
from store.messages.send_gate import FrequencyCap
from workflows.catalog import Definition, catalog, templates, triggers
from workflows.sandbox import workflow_runner
from workflows.system.jobs import LOOPS, SCHEDULES, Job, Scheduled, workflows_of

logger = logging.getLogger("perennial.worker")

Activities = list[Callable[..., Any]]

HEARTBEAT_THROTTLE = timedelta(seconds=1)
"""The longest time that the SDK holds a heartbeat back. Its default, 0.8 of the timeout, would send one
heartbeat of three (:mod:`activities.loops`). One late heartbeat would then time the activity out."""

COLLECTOR = (1, 1)
"""Thresholds of the garbage collector's older generations: a full collection about every 500 instances. An
instance that leaves the cache is in the oldest generation, and its module is garbage in cycles: 300 objects of
2 µs each. Fewer collections would block the event loop for longer. Folding events makes no cycles."""

WORKFLOW_CACHE = 500
"""Instances that a worker keeps in memory between workflow tasks, at 0.2 to 0.3 MiB each. It replays the others
at their next task: most wait for weeks."""
SYSTEM_WORKFLOW_CACHE = 100

_VERSIONING = {
    "auto_upgrade": VersioningBehavior.AUTO_UPGRADE,
    "pinned": VersioningBehavior.PINNED,
}


def startables() -> dict[str, Startable]:
    """Each workflow of the catalogue, as triggers start it."""
    return {name: definition.startable for name, definition in catalog().items()}


def implementations() -> list[type[Any]]:
    """The classes of all lifecycle workflows."""
    return [definition.implementation for definition in catalog().values()]


def transports(settings: Settings) -> dict[Channel, Transport]:
    """The transports that the settings configure. Raises :class:`ConfigurationError`."""
    found: dict[Channel, Transport] = {}
    if settings.smtp_url:
        found[Channel.EMAIL] = SmtpTransport(settings)
    if url := settings.message_webhook_url:
        if url.startswith("http:") and settings.environment != "embedded":
            raise ConfigurationError("PERENNIAL_MESSAGE_WEBHOOK_URL must be https outside the embedded stack.")
        found[Channel.WEBHOOK] = WebhookTransport(url, settings.message_webhook_secret)
    return found


def build_worker(
    client: Client,
    settings: Settings,
    database: Database,
    cipher: Cipher,
    *,
    lifecycles: Sequence[type[Any]] | None = None,
    workflow_cache: int = WORKFLOW_CACHE,
) -> Worker:
    """The worker for instances of all lifecycle workflows, or of those given."""
    served = lifecycles or implementations()
    return _worker(
        client,
        settings,
        settings.task_queue,
        workflows=served,
        activities=[
            *_lifecycle_activities(settings, database, cipher, [each.definition for each in served]),
            _starts(client, settings, database, cipher, served).start,
            *authored_activities(Dependencies(database, cipher, settings)),
        ],
        activities_at_once=settings.worker_max_activities,
        workflow_cache=workflow_cache,
        interceptors=[StepRecorder(database, cipher)],
        deployment=_deployment(settings),
    )


def build_system_workers(
    client: Client,
    system: Client,
    settings: Settings,
    database: Database,
    cipher: Cipher,
    owner: Database | None = None,
) -> list[Worker]:
    """The workers for the system's jobs, one for each task queue.

    ``client`` is for the instances' namespace, ``system`` for the one in which the jobs run. ``owner`` connects as
    the role that owns the tables, and drops expired partitions. These workers aren't versioned. Their workflows
    are so short that old and new code replay each other's histories.
    """
    activities: dict[Queue, Activities] = {
        Queue.PROJECTION: [
            Projector(database, cipher, triggers(), periods_of(settings), settings.dimension_values).follow
        ],
        Queue.DELIVERY: _delivery(client, system, settings, database, cipher),
        Queue.MAINTENANCE: _maintenance(client, settings, database, cipher, owner),
    }
    # A loop always holds one slot. After missed heartbeats it holds two, until the first attempt notices.
    slots = {
        Queue.PROJECTION: 2 * SHARDS,
        Queue.DELIVERY: 2 + settings.worker_max_activities,
        Queue.MAINTENANCE: 20,
    }
    return [
        _worker(
            system,
            settings,
            system_task_queue(settings.task_queue, queue),
            workflows=workflows_of(queue),
            activities=activities[queue],
            activities_at_once=slots[queue],
            workflow_cache=SYSTEM_WORKFLOW_CACHE,
        )
        for queue in Queue
    ]


def _delivery(
    client: Client, system: Client, settings: Settings, database: Database, cipher: Cipher
) -> Activities:
    outbox = Outbox(database, cipher, client, system, settings.task_queue, startables())
    # Callbacks needn't mask the words of a workflow's parameter schema.
    words = {name: schema_choices(each.parameter_schema) for name, each in catalog().items()}
    keys = {name: each.key for name, each in catalog().items()}
    callbacks = Callbacks(database, cipher, settings, words, keys)
    return [outbox.deliver, callbacks.send, callbacks.give_up]


def _maintenance(
    client: Client, settings: Settings, database: Database, cipher: Cipher, owner: Database | None
) -> Activities:
    retention = Retention(database, owner, client, CheckpointKey(cipher))
    return [
        Redactions(database, cipher, settings.dimension_values).apply,
        Compactor(database).run,
        Reconciler(database, cipher, client, settings.task_queue).reconcile,
        Partitions(database).make_ahead,
        AuditCheckpoints(database, CheckpointKey(cipher)).checkpoint,
        StageSweeps(database, cipher, periods_of(settings)).sweep,
        retention.begin,
        retention.purge,
        retention.finish,
    ]


def periods_of(settings: Settings) -> Periods:
    return Periods(
        session_timeout=settings.session_timeout,
        at_risk_after=settings.stage_at_risk_after,
        dormant_after=settings.stage_dormant_after,
        churned_after=settings.stage_churned_after,
    )


def _worker(
    client: Client,
    settings: Settings,
    task_queue: str,
    *,
    workflows: Sequence[type[Any]],
    activities: Sequence[Callable[..., Any]],
    activities_at_once: int,
    workflow_cache: int,
    interceptors: Sequence[Interceptor] = (),
    deployment: WorkerDeploymentConfig | None = None,
) -> Worker:
    return Worker(
        client,
        task_queue=task_queue,
        workflows=workflows,
        activities=activities,
        interceptors=interceptors,
        max_concurrent_activities=activities_at_once,
        max_cached_workflows=workflow_cache,
        deployment_config=deployment,
        workflow_runner=workflow_runner(),
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        graceful_shutdown_timeout=timedelta(seconds=settings.worker_graceful_shutdown_seconds),
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        # After this time another worker takes the workflow task of a dead one.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    )


def _lifecycle_activities(
    settings: Settings, database: Database, cipher: Cipher, definitions: Sequence[Definition]
) -> Activities:
    purposes = {each.workflow_id: each.purpose for each in definitions}
    cap = FrequencyCap(settings.message_cap, timedelta(days=settings.message_cap_days))
    messages = Messages(
        database,
        cipher,
        transports(settings),
        purposes,
        resend_unconfirmed=settings.smtp_unconfirmed == "resend",
        cap=cap if settings.message_cap else None,
        templates=templates(definitions),
    )
    events, instances = Events(database, cipher), Instances(database, cipher)
    profiles = Profiles(database, cipher, purposes, settings.clv_expected_years)
    return [
        instances.record,
        instances.end,
        instances.backs_off,
        messages.send,
        messages.withdraw,
        profiles.set_stage,
        profiles.known,
        HttpRequests(settings.services).request,
        events.emit,
        events.last_seen,
        events.properties,
        Clocks(database, cipher).next_local,
    ]


def _starts(
    client: Client, settings: Settings, database: Database, cipher: Cipher, served: Sequence[type[Any]]
) -> Starts:
    known = {**catalog(), **{each.definition.workflow_id: each.definition for each in served}}
    startables = {name: (each.startable, each.parameters) for name, each in known.items()}
    return Starts(database, cipher, client, settings.task_queue, startables)


def _deployment(settings: Settings) -> WorkerDeploymentConfig | None:
    """The build of this worker; None if workers aren't versioned. Raises :class:`ConfigurationError`."""
    if settings.worker_deployment is None and settings.worker_build_id is None:
        return None
    if settings.worker_deployment is None or settings.worker_build_id is None:
        raise ConfigurationError("PERENNIAL_WORKER_DEPLOYMENT and PERENNIAL_WORKER_BUILD_ID belong together.")
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(settings.worker_deployment, settings.worker_build_id),
        use_worker_versioning=True,
        default_versioning_behavior=_VERSIONING[settings.worker_versioning],
    )


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; then finish the activities under way, within the graceful time.

    A worker that still waits for Temporal stops at once.
    """
    configure_logging(settings)
    stopping = stop_event()
    ring = KeyFile(settings.require_key_file()).load()
    async with AsyncExitStack() as closing:
        tracing = configure_tracing(settings, "worker")
        if tracing is not None:
            closing.callback(tracing.shutdown)
        database = Database(
            settings.require_database_url(), size=settings.database_pool_size, application="worker"
        )
        owner = owner_database(settings.migration_database_url) if settings.migration_database_url else None
        if owner is None:
            logger.warning(
                "PERENNIAL_MIGRATION_DATABASE_URL is not set: expired partitions are emptied and not dropped"
            )
        for pool in filter(None, (owner, database)):
            await pool.open()
            closing.push_async_callback(pool.close)
        prepared = await unless(stopping, _prepare(closing, settings, ring, database, owner))
        if prepared is None:
            logger.info("stopped before Temporal had taken the worker")
            return
        workers, checks = prepared
        collect_garbage_rarely(*COLLECTOR)
        async with checks.continued(stopping.set), watched(database), polling(workers):
            announce_ready(settings.ready_file)
            logger.info("worker is polling", extra={"task_queues": [each.task_queue for each in workers]})
            await stopping.wait()


async def _prepare(
    closing: AsyncExitStack, settings: Settings, ring: KeyRing, database: Database, owner: Database | None
) -> tuple[list[Worker], StartChecks]:
    """The workers, as soon as Temporal answers and runs the system's jobs.

    Raises :class:`checks.unmet.UnmetError`. The checks wait for Postgres if it doesn't answer.
    """
    client = await _connect(settings, EncryptedPayloads(ring.payload.current, ring.payload.keys))
    checks = StartChecks(settings, client)
    await checks.run()
    system = in_namespace(client, settings.system_namespace)
    cipher = Cipher(ring)
    workers = [
        build_worker(client, settings, database, cipher),
        *build_system_workers(client, system, settings, database, cipher, owner),
    ]

    async def provision() -> None:
        await _provision(client, system, settings.task_queue)
        await set_history_retention(client, database)

    await closing.enter_async_context(provisioned(system, provision))
    return workers, checks


async def _connect(settings: Settings, codec: EncryptedPayloads) -> Client:
    """A client of the instances' namespace, as soon as Temporal answers."""
    interceptors = [TracingInterceptor()] if settings.otlp_endpoint else []
    while True:
        try:
            return await connect(settings, codec, interceptors=interceptors, lazy=False)
        except (RPCError, RuntimeError):
            logger.warning("Temporal does not answer yet", extra={"address": settings.temporal_address})
            await asyncio.sleep(1)


async def _provision(client: Client, system: Client, task_queue: str) -> None:
    """Make the system namespace and start the jobs, as soon as Temporal has the instances' namespace."""
    while True:
        try:
            if await has_namespace(client):
                await ensure_namespace(system)
                since = time.time()
                await _start_jobs(system, task_queue)
                await _compare_clocks(system, since)
                return
            logger.warning("Temporal has no such namespace yet", extra={"namespace": client.namespace})
        except RPCError as error:
            # A new namespace is NOT_FOUND for some seconds on a Temporal of several hosts.
            logger.warning("Temporal did not take the system's jobs yet", extra={"status": error.status.name})
        await asyncio.sleep(1)


async def _compare_clocks(system: Client, since: float) -> None:
    """Raise :class:`checks.unmet.UnmetError` if Temporal's clock is too far off; ``since`` is before the jobs."""
    seconds = await temporal.skew(system, SCHEDULES[-1].workflow_id, since)
    if unmet := too_far_apart(seconds, "Temporal"):
        raise UnmetError(unmet)


async def _start_jobs(system: Client, task_queue: str) -> None:
    for loop in LOOPS:
        await start_loop(system, task_queue, loop)
    for job in SCHEDULES:
        await keep_schedule(system, task_queue, job)


async def start_loop(system: Client, task_queue: str, loop: Job) -> None:
    """Start a loop unless it runs."""
    await ensure_running(
        system,
        loop.workflow.run,
        workflow_id=loop.workflow_id,
        task_queue=system_task_queue(task_queue, loop.queue),
        summary=PublicText(loop.summary),
        args=loop.args,
    )


async def keep_schedule(system: Client, task_queue: str, job: Scheduled) -> None:
    """Make the schedule of a job, or bring it up to date."""
    await ensure_schedule(system, job.workflow_id, job.schedule(task_queue), run_now=job.at_worker_start)
