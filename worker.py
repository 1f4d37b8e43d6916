"""The composition root of the worker: workflows, activities, interceptors, and how they start and stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.service import RPCError
from temporalio.worker import PollerBehaviorAutoscaling, Worker, WorkerDeploymentConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.audit import AuditCheckpoints, schedule_audit_checkpoint
from activities.callbacks import Callbacks
from activities.events import Events
from activities.instances import Instances
from activities.messages import Messages
from activities.outbox import Outbox, Startable, start_outbox
from activities.partitions import Partitions, owner_database, schedule_partitions
from activities.profiles import Clocks, Profiles
from activities.projector import Projector, start_projectors
from activities.reconciler import Reconciler, schedule_reconciler
from activities.recording import StepRecorder
from activities.redaction import Redactions, start_redaction
from activities.retention import Retention, align_histories, schedule_retention
from delivery.smtp import SmtpTransport
from delivery.transport import Transport
from delivery.webhook import WebhookTransport
from models.vocabulary import Channel
from privacy.audit_chain import CheckpointKey
from privacy.encryption import Cipher
from privacy.keyring import KeyFile, KeyRing
from privacy.masking import closed_words
from runtime.database import Database
from runtime.process import announce_ready, collect_rarely
from runtime.settings import ConfigurationError, Settings
from runtime.telemetry import configure_logging, configure_tracing
from runtime.temporal import EncryptedPayloads, connect
from store.messages.send_gate import FrequencyCap
from workflows.catalog import Definition, catalog, templates, triggers
from workflows.system.registry import SYSTEM_WORKFLOWS

logger = logging.getLogger("perennial.worker")

T = TypeVar("T")

HEARTBEAT_THROTTLE = timedelta(seconds=1)
"""How long the SDK may hold a heartbeat back. Its own choice is 0.8 of the time-out: of the three that
:mod:`activities.heartbeats` gives one would be sent, and one that came late would pass for a death."""

COLLECTOR = (1, 1)
"""How often the collector looks at what has survived: at all of it once in some 500 instances. One that leaves the
cache of workflows has lived for long, and its module and classes are garbage in cycles, 300 objects of 2 µs each:
the longer they gather, the longer the loop stands still when they go. Folding events makes no cycles, and hardly
brings a look about."""

WORKFLOW_CACHE = 500
"""How many instances a worker keeps in memory between their tasks, at 0.2 to 0.3 MiB each; others are replayed
when something happens to them. Most of an installation's instances wait for weeks and have no use for it."""

PASSED_THROUGH = ("activities", "delivery", "models", "privacy", "pydantic", "pydantic_core", "runtime", "store")
"""Modules that the workflow sandbox doesn't import again for every run. The workflows' own are not among
them, except for their base: what an author writes stays under the sandbox's restrictions."""
PASSED_THROUGH_WORKFLOWS = (
    "authoring",
    "base",
    "catalog",
    "inbox",
    "instance",
    "policies",
    "steps",
    "tasks",
)


_VERSIONING = {
    "auto_upgrade": VersioningBehavior.AUTO_UPGRADE,
    "pinned": VersioningBehavior.PINNED,
}


def workflow_runner() -> SandboxedWorkflowRunner:
    """The sandbox that workers and replay tests run workflows in."""
    return SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules(
            *PASSED_THROUGH, *(f"workflows.{name}" for name in PASSED_THROUGH_WORKFLOWS)
        )
    )


def startables() -> dict[str, Startable]:
    """What triggers need to know of the workflows they may start."""
    return {name: startable_of(definition) for name, definition in catalog().items()}


def startable_of(definition: Definition) -> Startable:
    """What a trigger needs to know of one workflow."""
    return Startable(
        description=definition.description,
        purpose=definition.purpose,
        max_attempts=definition.max_attempts,
        parameters=definition.default_parameters(),
        once_per=definition.once_per,
        exits=definition.exits,
    )


def implementations() -> list[type[Any]]:
    """The classes of all lifecycle workflows."""
    return [definition.implementation for definition in catalog().values()]


def transports(settings: Settings) -> dict[Channel, Transport]:
    """The ways out for messages that are configured. Raises :class:`ConfigurationError`."""
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
    owner: Database | None = None,
    *,
    lifecycles: Sequence[type[Any]] | None = None,
    workflow_cache: int = WORKFLOW_CACHE,
) -> Worker:
    """A worker for all lifecycle workflows, or for those given, and their activities.

    ``owner`` are connections of the role that owns the tables, with which whole months are dropped.
    ``workflow_cache`` is how many instances are kept in memory between their tasks; others are replayed.
    """
    served = lifecycles or implementations()
    definitions = [each.definition for each in served]
    return Worker(
        client,
        task_queue=settings.task_queue,
        workflows=[*served, *SYSTEM_WORKFLOWS],
        activities=[
            *_lifecycle_activities(settings, database, cipher, definitions),
            *_following_activities(client, settings, database, cipher, definitions),
            *_keeping_activities(client, database, cipher, owner),
        ],
        workflow_runner=workflow_runner(),
        max_cached_workflows=workflow_cache,
        interceptors=[StepRecorder(database, cipher)],
        max_concurrent_activities=settings.worker_max_activities,
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        deployment_config=_deployment(settings),
        graceful_shutdown_timeout=timedelta(seconds=settings.worker_graceful_shutdown_seconds),
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    )


def _lifecycle_activities(
    settings: Settings, database: Database, cipher: Cipher, definitions: Sequence[Definition]
) -> list[Callable[..., Any]]:
    """What lifecycle workflows do."""
    cap = FrequencyCap(settings.message_cap, timedelta(days=settings.message_cap_days))
    messages = Messages(
        database,
        cipher,
        transports(settings),
        {each.workflow_id: each.purpose for each in definitions},
        resend_unconfirmed=settings.smtp_unconfirmed == "resend",
        cap=cap if settings.message_cap else None,
        templates=templates(definitions),
    )
    events, instances = Events(database, cipher), Instances(database, cipher)
    return [
        instances.record,
        instances.end,
        messages.send,
        messages.withdraw,
        Profiles(database).set_stage,
        events.emit,
        events.last_seen,
        Clocks(database, cipher).next_local,
    ]


def _following_activities(
    client: Client, settings: Settings, database: Database, cipher: Cipher, definitions: Sequence[Definition]
) -> list[Callable[..., Any]]:
    """What follows from events, and from the ends of instances."""
    known = {each.workflow_id: closed_words(each.parameter_schema()) for each in definitions}
    callbacks = Callbacks(database, cipher, settings, known)
    return [
        Projector(database, cipher, triggers()).follow,
        Outbox(database, cipher, client, settings.task_queue, startables()).deliver,
        Reconciler(database, cipher, client).look,
        callbacks.send,
        callbacks.give_up,
    ]


def _keeping_activities(
    client: Client, database: Database, cipher: Cipher, owner: Database | None
) -> list[Callable[..., Any]]:
    """What keeps the data in order."""
    retention = Retention(database, owner, client)
    return [
        Partitions(database).make_ahead,
        AuditCheckpoints(database, CheckpointKey(cipher)).checkpoint,
        Redactions(database, cipher).apply,
        retention.begin,
        retention.purge,
        retention.finish,
    ]


def _deployment(settings: Settings) -> WorkerDeploymentConfig | None:
    """Which build this worker is, where versioned; raises :class:`ConfigurationError` for half of it."""
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
    """Work until SIGTERM or SIGINT; then finish what is under way, up to the graceful time. While it still waits
    for Temporal it ends at once."""
    configure_logging(settings)
    stopping = _told_to_stop()
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
                "PERENNIAL_MIGRATION_DATABASE_URL is not set: expired months are emptied and not dropped"
            )
        for pool in filter(None, (owner, database)):
            await pool.open()
            closing.push_async_callback(pool.close)
        worker = await _unless(stopping, _begun(settings, ring, database, owner))
        if worker is None:
            logger.info("stopped before Temporal had taken the worker")
            return
        collect_rarely(*COLLECTOR)
        async with worker:
            announce_ready(settings.ready_file)
            logger.info("worker is polling", extra={"task_queue": settings.task_queue})
            await stopping.wait()


def _told_to_stop() -> asyncio.Event:
    """What SIGTERM and SIGINT set from now on."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of some work; None where it was to stop before, and the work was cancelled."""
    tasks = working, _ = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _begun(settings: Settings, ring: KeyRing, database: Database, owner: Database | None) -> Worker:
    """The worker, as soon as Temporal answers and has taken the system's workflows."""
    client = await _connected(settings, EncryptedPayloads(ring.payload.current, ring.payload.keys))
    worker = build_worker(client, settings, database, Cipher(ring), owner)
    await _start_system(client, settings.task_queue)
    await align_histories(client, database)
    return worker


async def _start_system(client: Client, task_queue: str) -> None:
    """Make sure that the platform's own workflows run; those that do are left alone."""
    while True:
        try:
            await start_projectors(client, task_queue)
            await start_outbox(client, task_queue)
            await start_redaction(client, task_queue)
            await schedule_partitions(client, task_queue)
            await schedule_audit_checkpoint(client, task_queue)
            await schedule_retention(client, task_queue)
            await schedule_reconciler(client, task_queue)
        except RPCError:
            logger.warning("Temporal did not take the system's workflows; trying again")
            await asyncio.sleep(1)
        else:
            return


async def _connected(settings: Settings, codec: EncryptedPayloads) -> Client:
    """A connected client, as soon as Temporal answers."""
    interceptors = [TracingInterceptor()] if settings.otlp_endpoint else []
    while True:
        try:
            return await connect(settings, codec, interceptors=interceptors, lazy=False)
        except (RPCError, RuntimeError):
            logger.warning("Temporal does not answer yet", extra={"address": settings.temporal_address})
            await asyncio.sleep(1)
