"""The composition root of the worker: workflows, activities, interceptors, and how they start and stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.service import RPCError
from temporalio.worker import PollerBehaviorAutoscaling, Worker, WorkerDeploymentConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.callbacks import Callbacks
from activities.instances import Instances
from activities.messages import Messages
from activities.outbox import Outbox, Startable, start_outbox
from activities.partitions import Partitions, schedule_partitions
from activities.profiles import Profiles
from activities.projector import Projector, start_projectors
from activities.reconciler import Reconciler, schedule_reconciler
from activities.recording import StepRecorder
from activities.transport import SmtpTransport
from privacy.keyring import KeyFile
from privacy.sealing import Sealer
from runtime.database import Database
from runtime.readiness import announce_ready
from runtime.settings import BadConfiguration, Settings
from runtime.telemetry import configure_logging, configure_tracing
from runtime.temporal import SealedPayloads, connect
from workflows.catalog import catalog, triggers
from workflows.interceptors import OutcomeInterceptor
from workflows.system.registry import SYSTEM_WORKFLOWS

log = logging.getLogger("perennial.worker")

PASSED_THROUGH = ("activities", "models", "privacy", "pydantic", "pydantic_core", "runtime", "store")
"""Modules that the workflow sandbox doesn't import again for every run. The workflows' own are not among
them, except for their base: what an author writes stays under the sandbox's restrictions."""
PASSED_THROUGH_WORKFLOWS = ("base", "catalog", "interceptors", "policies")


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
    return {
        name: Startable(
            description=definition.description,
            purpose=definition.purpose,
            max_attempts=definition.max_attempts,
            parameters=definition.default_parameters(),
        )
        for name, definition in catalog().items()
    }


def build_worker(client: Client, settings: Settings, database: Database, sealer: Sealer) -> Worker:
    """A worker for all lifecycle workflows and their activities."""
    transport = SmtpTransport(settings) if settings.smtp_url else None
    messages = Messages(database, sealer, transport, resend_unconfirmed=settings.smtp_unconfirmed == "resend")
    instances = Instances(database, sealer)
    profiles = Profiles(database)
    callbacks = Callbacks(database, sealer, settings)
    projector = Projector(database, sealer, triggers())
    carrier = Outbox(database, sealer, client, settings.task_queue, startables())
    return Worker(
        client,
        task_queue=settings.task_queue,
        workflows=[*(definition.implementation for definition in catalog().values()), *SYSTEM_WORKFLOWS],
        activities=[
            instances.record,
            messages.send,
            messages.withdraw,
            profiles.set_stage,
            projector.follow,
            carrier.deliver,
            Partitions(database).make_ahead,
            Reconciler(database, sealer, client).look,
            callbacks.send,
            callbacks.give_up,
        ],
        workflow_runner=workflow_runner(),
        interceptors=[OutcomeInterceptor(), StepRecorder(database, sealer)],
        max_concurrent_activities=settings.worker_max_activities,
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        deployment_config=_deployment(settings),
        graceful_shutdown_timeout=timedelta(seconds=settings.worker_graceful_shutdown_seconds),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    )


def _deployment(settings: Settings) -> WorkerDeploymentConfig | None:
    """Which build this worker is, where workers are versioned; raises :class:`BadConfiguration` for half of it."""
    if settings.worker_deployment is None and settings.worker_build_id is None:
        return None
    if settings.worker_deployment is None or settings.worker_build_id is None:
        raise BadConfiguration("PERENNIAL_WORKER_DEPLOYMENT and PERENNIAL_WORKER_BUILD_ID belong together.")
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(settings.worker_deployment, settings.worker_build_id),
        use_worker_versioning=True,
        default_versioning_behavior=_VERSIONING[settings.worker_versioning],
    )


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; then finish what is under way, up to the graceful time."""
    configure_logging(settings)
    tracing = configure_tracing(settings, "worker")
    ring = KeyFile(settings.require_key_file()).load()
    database = Database(settings.require_database_url(), size=settings.database_pool_size, application="worker")
    await database.open()
    client = await _connected(settings, SealedPayloads(ring.payload.current, ring.payload.keys))
    worker = build_worker(client, settings, database, Sealer(ring))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await _start_system(client, settings.task_queue)
    async with worker:
        announce_ready(settings.ready_file)
        log.info("worker is polling", extra={"task_queue": settings.task_queue})
        await stopping.wait()
    await database.close()
    if tracing is not None:
        tracing.shutdown()


async def _start_system(client: Client, task_queue: str) -> None:
    """Make sure that the platform's own workflows run; those that do are left alone."""
    while True:
        try:
            await start_projectors(client, task_queue)
            await start_outbox(client, task_queue)
            await schedule_partitions(client, task_queue)
            await schedule_reconciler(client, task_queue)
        except RPCError:
            log.warning("Temporal did not take the system's workflows; trying again")
            await asyncio.sleep(1)
        else:
            return


async def _connected(settings: Settings, codec: SealedPayloads) -> Client:
    """A connected client, as soon as Temporal answers."""
    interceptors = [TracingInterceptor()] if settings.otlp_endpoint else []
    while True:
        try:
            return await connect(settings, codec, interceptors=interceptors, lazy=False)
        except (RPCError, RuntimeError):
            log.warning("Temporal does not answer yet", extra={"address": settings.temporal_address})
            await asyncio.sleep(1)
