"""Records the committed histories that the replay tests read: `python -m tests.support.recorded`.

They are encrypted with a public key, since they hold no real data. An existing history is kept: running instances
may have one like it. Some are of earlier versions, in which `user.account_deletion` was an exit of each workflow.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHistory
from temporalio.converter import SerializationContext
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
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from privacy.keyring import KeyRing, KeySet
from runtime.database import Database
from runtime.embedded.postgres import scratch_postgres
from runtime.embedded.temporal_server import find_temporal
from runtime.migrate import upgrade
from runtime.process import polling
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads, data_converter
from testing.people import Customer
from testing.runs import Run, Runs
from testing.temporal import skipping_temporal
from worker import build_system_workers, build_worker, start_loop
from workflows.system.jobs import LOOPS, SCHEDULES, Job

HISTORIES = Path(__file__).parent.parent / "workflows" / "histories"
_KNOWN = KeySet("known", {"known": bytes(range(32))})
RING = KeyRing(kek=_KNOWN, payload=_KNOWN, blind_index=bytes(32))


class RecordedPayloads(EncryptedPayloads):
    """Decrypts payloads of committed histories for any workflow: a replay has another workflow id.

    The first histories were recorded before each payload had a key of its own.
    """

    def with_context(self, context: SerializationContext) -> RecordedPayloads:
        return self

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encryption-cipher") != b"AES-256-GCM":
            return super()._decrypt(payload)
        key_id, data = payload.metadata["encryption-key-id"], payload.data
        plain = AESGCM(RING.payload.keys[key_id.decode()]).decrypt(data[:12], data[12:], key_id)
        return Payload.FromString(plain)


CODEC = RecordedPayloads(RING.payload.current, RING.payload.keys)


async def _onboarding(runs: Runs, customer: Customer) -> dict[str, Run]:
    """One instance for each course of onboarding."""
    nudged = await runs.start(
        customer.user_id, parameters={"first_activity_within": "PT0.2S", "nudge_within": "PT0.2S"}
    )
    await nudged.handle.result()
    active = await runs.start(customer.user_id, still=True)
    await runs.until(active, "wait_for_first_activity")
    await runs.notify(active, "engagement.page_view")
    await active.handle.result()
    paused = await runs.start(
        customer.user_id, parameters={"first_activity_within": "PT0.5S", "nudge_within": "PT0.2S"}
    )
    await runs.until(paused, "wait_for_first_activity")
    await paused.handle.execute_update("pause")
    await asyncio.sleep(0.7)
    await paused.handle.execute_update("resume")
    await paused.handle.result()
    cancelled = await runs.start(customer.user_id, still=True)
    await runs.until(cancelled, "wait_for_first_activity")
    await cancelled.handle.cancel()
    failed = await runs.start(customer.user_id, parameters={"first_activity_within": "nonsense"})
    for ended in (cancelled, failed):
        with contextlib.suppress(WorkflowFailureError):
            await ended.handle.result()
    return {
        "onboarding-nudged": nudged,
        "onboarding-active": active,
        "onboarding-paused": paused,
        "onboarding-cancelled": cancelled,
        "onboarding-failed": failed,
    }


async def _others(runs: Runs, customer: Customer) -> dict[str, Run]:
    """Each of the other workflows to its end, and each that has exits to one: over weeks of virtual time."""
    exits: dict[str, tuple[str, str] | None] = {
        "cart_recovery": ("wait_for_end_of_shopping", "transaction.purchase_complete"),
        "trial_conversion": ("wait_for_first_use", "transaction.purchase_complete"),
        "win_back": ("wait_before_whats_new", "user.login"),
        "churn_prevention": None,
        "post_purchase": None,
    }
    found = {}
    for workflow_id, left_by in exits.items():
        found[f"{workflow_id}-to_the_end"] = to_the_end = await runs.start(customer.user_id, workflow_id)
        await to_the_end.handle.result()
        if left_by is None:
            continue
        wait, event_type = left_by
        found[f"{workflow_id}-exited"] = left = await runs.start(customer.user_id, workflow_id, still=True)
        await runs.until(left, wait)
        await runs.notify(left, event_type)
        await left.handle.result()
    return found


async def _waits(runs: Runs, customer: Customer) -> dict[str, Run]:
    """Waits that an event ends, and a journey whose exit compares with a parameter."""
    second = await runs.start(customer.user_id, "post_purchase", still=True)
    await runs.until(second, "wait_before_thanks")
    await runs.notify(second, "transaction.purchase_complete")
    await runs.environment.fast_forward(second.handle)
    used = await runs.start(customer.user_id, "trial_conversion", still=True)
    await runs.until(used, "wait_for_first_use")
    await runs.notify(used, "engagement.feature_click")
    await runs.until(used, "wait_for_halfway")
    await runs.environment.fast_forward(used.handle)
    unpaid = await runs.start(customer.user_id, "dunning", parameters={"invoice_id": "in-1"})
    paid = await runs.start(customer.user_id, "dunning", parameters={"invoice_id": "in-1"}, still=True)
    await runs.until(paid, "wait_before_payment_failed")
    await runs.notify(paid, "billing.payment_succeeded", step="~exit_1")
    for ended in (second, used, unpaid, paid):
        await ended.handle.result()
    return {
        "post_purchase-bought_again": second,
        "trial_conversion-used": used,
        "dunning-unpaid": unpaid,
        "dunning-paid": paid,
    }


async def _write_jobs(client: Client, task_queue: str) -> None:
    """A run of each system workflow; of the loops, a run that continued as new."""
    loops.TURN_SECONDS = 0.5
    for job in LOOPS:
        await start_loop(client, task_queue, job)
    for job in SCHEDULES:
        handle = await client.start_workflow(
            job.workflow.run,
            args=job.args,
            id=job.workflow_id,
            task_queue=system_task_queue(task_queue, job.queue),
        )
        await handle.result()
        _keep(f"{_name(job)}-turn", await handle.fetch_history())
    due = CallbackDue(instance_id="unknown", ending=0)
    delivery = system_task_queue(task_queue, Queue.DELIVERY)
    callback = await client.start_workflow(CALLBACK, due, id=callback_id(due), task_queue=delivery)
    await callback.result()
    _keep(f"{CALLBACK}-turn", await callback.fetch_history())
    for job in LOOPS:
        if _name(job) != PROJECTOR or job.workflow_id == projector_id(0):
            _keep(f"{_name(job)}-turn", await _first_turn(client, job.workflow_id))


def _name(job: Job) -> str:
    return str(_Definition.must_from_class(job.workflow).name)


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
    """Run the scenarios on a real Temporal and write their histories."""
    async with scratch_postgres() as postgres:
        settings = Settings(database_url=postgres.runtime_url, migration_database_url=postgres.owner_url)
        await asyncio.to_thread(upgrade, settings)
        database = Database(postgres.runtime_url, size=4, application="record")
        await database.open()
        local = WorkflowEnvironment.start_local(
            dev_server_existing_path=str(find_temporal()),
            data_converter=data_converter(CODEC),
            search_attributes=SEARCH_ATTRIBUTES,
        )
        customer = await Customer.new(
            database, Cipher(RING), Purpose.MARKETING, Purpose.DATA_COLLECTION, timezone="Europe/Berlin"
        )
        async with await local as environment, build_worker(environment.client, settings, database, Cipher(RING)):
            await _write(
                await _onboarding(Runs(environment, database, Cipher(RING), settings.task_queue), customer)
            )
            client = environment.client
            async with polling(build_system_workers(client, client, settings, database, Cipher(RING))):
                await _write_jobs(client, settings.task_queue)
        async with (
            skipping_temporal(CODEC) as environment,
            build_worker(environment.client, settings, database, Cipher(RING)),
        ):
            runs = Runs(environment, database, Cipher(RING), settings.task_queue)
            await _write(await _others(runs, customer))
            await _write(await _waits(runs, customer))
        await database.close()


async def _write(scenarios: dict[str, Run]) -> None:
    for name, run in scenarios.items():
        _keep(name, await run.handle.fetch_history())


if __name__ == "__main__":
    HISTORIES.mkdir(exist_ok=True)
    asyncio.run(record())
