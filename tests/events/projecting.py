"""A worker process with the projector alone: ``python -m tests.events.projecting worker``."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta

import uvloop
from temporalio.worker import Worker

from activities.projector import Projector
from models.temporal.system import Queue, system_task_queue
from privacy.encryption import Cipher
from privacy.keyring import KeyFile
from runtime.database import Database
from runtime.process import announce_ready
from runtime.provisioning import ensure_namespace, in_namespace
from runtime.settings import Settings, load_settings
from runtime.telemetry import configure_logging
from runtime.temporal import EncryptedPayloads, connect
from worker import HEARTBEAT_THROTTLE, start_loop
from workflows.sandbox import workflow_runner
from workflows.system.jobs import LOOPS, ProjectorWorkflow


async def work(settings: Settings) -> None:
    """Project until SIGTERM."""
    configure_logging(settings)
    ring = KeyFile(settings.require_key_file()).load()
    database = Database(settings.require_database_url(), size=settings.database_pool_size, application="worker")
    await database.open()
    codec = EncryptedPayloads(ring.payload.current, ring.payload.keys)
    client = await connect(settings, codec, lazy=False)
    system = in_namespace(client, settings.system_namespace)
    await ensure_namespace(system)
    worker = Worker(
        system,
        task_queue=system_task_queue(settings.task_queue, Queue.PROJECTION),
        workflows=[ProjectorWorkflow],
        activities=[Projector(database, Cipher(ring), ()).follow],
        workflow_runner=workflow_runner(),
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(seconds=2),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with worker:
        for job in LOOPS:
            if job.workflow is ProjectorWorkflow:
                await start_loop(system, settings.task_queue, job)
        announce_ready(settings.ready_file)
        await stopping.wait()
    await database.close()


if __name__ == "__main__":
    assert sys.argv[1:] == ["worker"]
    uvloop.run(work(load_settings()))
