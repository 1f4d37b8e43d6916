"""Histories that the replay tests read: made by `python -m tests.support.recorded`, and committed.

They are sealed with a key that is no secret, since nobody's data is in them. One that is there is left alone:
running instances have a history like it.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHistory
from temporalio.testing import WorkflowEnvironment

import activities.outbox
import activities.projector
from activities.outbox import start_outbox
from activities.projector import start_projectors
from models.messages.audit import AUDIT_SEAL, AUDIT_SEAL_ID
from models.messages.identity import SEARCH_ATTRIBUTES
from models.messages.outbox import OUTBOX, OUTBOX_WORKFLOW_ID
from models.messages.partitions import PARTITIONS, PARTITIONS_ID
from models.messages.projection import ALL_SHARDS, PROJECTOR, projector_workflow_id
from models.messages.retention import RETENTION, RETENTION_SCHEDULE_ID, RetentionRun
from privacy.keyring import KeyRing, KeySet
from privacy.sealing import Sealer
from runtime.database import Database
from runtime.embedded.scratch import scratch_postgres
from runtime.embedded.temporal_server import find_temporal
from runtime.migrate import upgrade
from runtime.settings import Settings
from runtime.temporal import SealedPayloads, data_converter
from tests.support.people import Customer
from tests.support.runs import Run, Runs
from worker import build_worker

HISTORIES = Path(__file__).parent.parent / "workflows" / "histories"
_KNOWN = KeySet("known", {"known": bytes(range(32))})
RING = KeyRing(kek=_KNOWN, payload=_KNOWN, blind_index=bytes(32))
CODEC = SealedPayloads(RING.payload.current, RING.payload.keys)


async def _stories(runs: Runs, customer: Customer) -> dict[str, Run]:
    """One instance of each course that onboarding can take."""
    nudged = await runs.start(
        customer.user_id, parameters={"first_activity_within": "PT0.2S", "nudge_within": "PT0.2S"}
    )
    await nudged.handle.result()
    active = await runs.start(customer.user_id)
    await runs.until(active, "wait_for_first_activity")
    await runs.tell(active, "engagement.page_view")
    await active.handle.result()
    paused = await runs.start(
        customer.user_id, parameters={"first_activity_within": "PT0.5S", "nudge_within": "PT0.2S"}
    )
    await runs.until(paused, "wait_for_first_activity")
    await paused.handle.execute_update("pause")
    await asyncio.sleep(0.7)
    await paused.handle.execute_update("resume")
    await paused.handle.result()
    cancelled = await runs.start(customer.user_id)
    await runs.until(cancelled, "wait_for_first_activity")
    await cancelled.handle.cancel()
    failed = await runs.start(customer.user_id, parameters={"first_activity_within": "nonsense"})
    for ended in (cancelled, failed):
        with contextlib.suppress(WorkflowFailureError):
            await ended.handle.result()
    return {"nudged": nudged, "active": active, "paused": paused, "cancelled": cancelled, "failed": failed}


async def _turns(client: Client, task_queue: str) -> dict[str, WorkflowHistory]:
    """A run of each of the platform's own workflows; of the endless ones, a turn that was followed by another."""
    activities.projector.TURN_SECONDS = activities.outbox.TURN_SECONDS = 0.5
    await start_projectors(client, task_queue)
    await start_outbox(client, task_queue)
    partitions = await client.start_workflow(PARTITIONS, id=PARTITIONS_ID, task_queue=task_queue)
    sealing = await client.start_workflow(AUDIT_SEAL, id=AUDIT_SEAL_ID, task_queue=task_queue)
    retention = await client.start_workflow(
        RETENTION, RetentionRun(), id=RETENTION_SCHEDULE_ID, task_queue=task_queue
    )
    for handle in (partitions, sealing, retention):
        await handle.result()
    return {
        AUDIT_SEAL: await sealing.fetch_history(),
        RETENTION: await retention.fetch_history(),
        PROJECTOR: await _first_turn(client, projector_workflow_id(ALL_SHARDS[0].shard)),
        OUTBOX: await _first_turn(client, OUTBOX_WORKFLOW_ID),
        PARTITIONS: await partitions.fetch_history(),
    }


async def _first_turn(client: Client, workflow_id: str) -> WorkflowHistory:
    run_id = (await client.get_workflow_handle(workflow_id).describe()).run_id
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    while (await handle.describe()).status is not WorkflowExecutionStatus.CONTINUED_AS_NEW:
        await asyncio.sleep(0.1)
    return await handle.fetch_history()


def _keep(name: str, history: WorkflowHistory) -> None:
    file = HISTORIES / f"{name}.json"
    if not file.exists():
        file.write_text(history.to_json())


async def record() -> None:
    """Run the stories on a real Temporal and write their histories."""
    async with scratch_postgres() as postgres:
        settings = Settings(database_url=postgres.runtime_url, migration_database_url=postgres.owner_url)
        await asyncio.to_thread(upgrade, settings)
        database = Database(postgres.runtime_url, size=4, application="record")
        await database.open()
        environment = await WorkflowEnvironment.start_local(
            dev_server_existing_path=str(find_temporal()),
            data_converter=data_converter(CODEC),
            search_attributes=SEARCH_ATTRIBUTES,
        )
        async with environment, build_worker(environment.client, settings, database, Sealer(RING)):
            runs = Runs(environment, database, Sealer(RING), settings.task_queue)
            stories = await _stories(runs, await Customer.new(database, Sealer(RING)))
            for name, run in stories.items():
                _keep(f"onboarding-{name}", await run.handle.fetch_history())
            for name, history in (await _turns(environment.client, settings.task_queue)).items():
                _keep(f"{name}-turn", history)
        await database.close()


if __name__ == "__main__":
    HISTORIES.mkdir(exist_ok=True)
    asyncio.run(record())
