"""Records the histories of the system's jobs, for `perennial record-history`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.testing import WorkflowEnvironment
from temporalio.workflow import _Definition

from activities import loops
from models.temporal.identity import SEARCH_ATTRIBUTES
from models.temporal.system import (
    CALLBACK,
    PROJECTOR,
    CallbackDue,
    Queue,
    callback_id,
    projector_id,
    system_task_queue,
)
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.postgres import scratch_postgres
from runtime.embedded.temporal_server import find_temporal
from runtime.migrate import upgrade
from runtime.process import polling
from runtime.settings import Settings
from runtime.temporal import data_converter
from testing.histories import CODEC, RING, keep
from testing.recording import silence
from worker import build_system_workers, start_loop
from workflows.system.jobs import LOOPS, SCHEDULES, Job

_COURSE = "turn"


async def record_jobs(wanted: set[str], directory: Path, say: Callable[[str], None]) -> None:
    """Write the missing histories of these jobs: one run each; of a loop, a run that continued as new."""
    cipher = Cipher(RING)
    async with scratch_postgres() as postgres:
        settings = Settings(database_url=postgres.runtime_url, migration_database_url=postgres.owner_url)
        await asyncio.to_thread(upgrade, settings)
        database = Database(postgres.runtime_url, size=4, application="record")
        await database.open()
        with silence():
            environment = await WorkflowEnvironment.start_local(
                dev_server_existing_path=str(find_temporal()),
                data_converter=data_converter(CODEC),
                search_attributes=SEARCH_ATTRIBUTES,
            )
        async with environment:
            client = environment.client
            async with polling(build_system_workers(client, client, settings, database, cipher)):
                for name, history in (await _histories(client, settings.task_queue, wanted)).items():
                    say(f"{keep(directory, name, _COURSE, history)}: completed")
        await database.close()


async def _histories(client: Client, task_queue: str, wanted: set[str]) -> dict[str, WorkflowHistory]:
    loops.TURN_SECONDS = 0.5
    found = {}
    for job in SCHEDULES:
        if _name(job) in wanted:
            queue = system_task_queue(task_queue, job.queue)
            handle = await client.start_workflow(
                job.workflow.run, args=job.args, id=job.workflow_id, task_queue=queue
            )
            await handle.result()
            found[_name(job)] = await handle.fetch_history()
    if CALLBACK in wanted:
        due = CallbackDue(instance_id="unknown", ending=0)
        delivery = system_task_queue(task_queue, Queue.DELIVERY)
        callback = await client.start_workflow(CALLBACK, due, id=callback_id(due), task_queue=delivery)
        await callback.result()
        found[CALLBACK] = await callback.fetch_history()
    for loop in LOOPS:
        if _name(loop) in wanted and (_name(loop) != PROJECTOR or loop.workflow_id == projector_id(0)):
            await start_loop(client, task_queue, loop)
            found[_name(loop)] = await _first_turn(client, loop.workflow_id)
    return found


def _name(job: Job) -> str:
    return str(_Definition.must_from_class(job.workflow).name)


async def _first_turn(client: Client, workflow_id: str) -> WorkflowHistory:
    run_id = (await client.get_workflow_handle(workflow_id).describe()).run_id
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    while (await handle.describe()).status is not WorkflowExecutionStatus.CONTINUED_AS_NEW:
        await asyncio.sleep(0.1)
    return await handle.fetch_history()
