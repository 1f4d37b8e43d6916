"""A backlog on one task queue delays the jobs of no other, and no loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from models.temporal.system import CALLBACK, CallbackDue, Queue, system_task_queue
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.process import polling
from runtime.settings import Settings
from testing.people import Customer
from tests.support.events import event
from tests.support.http import Clients
from tests.workflows_api.conftest import SHORT, api, execute, settings, until, working
from worker import build_system_workers, start_loop
from workflows.system.jobs import LOOPS

__all__ = ["api", "settings", "working"]

FLOOD = 200
HELD_SECONDS = 2.0
SLOTS = 6
"""Of the delivery queue: FLOOD callbacks take FLOOD / SLOTS * HELD_SECONDS, more than a minute."""


class SlowServer:
    """Answers each request with 500, after a while."""

    def __init__(self) -> None:
        self.url = ""
        self.received = 0
        self.held = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.received += 1
            self.held += 1
            await asyncio.sleep(HELD_SECONDS)
            self.held -= 1
            writer.write(b"HTTP/1.1 500 Slow\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield
        server.close()


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.DATA_COLLECTION)


@pytest.fixture
async def slow() -> AsyncIterator[SlowServer]:
    server = SlowServer()
    async with server.serving():
        yield server


@pytest.fixture
async def flood(
    api: Clients, working: None, customer: Customer, system: Client, settings: Settings, slow: SlowServer
) -> AsyncIterator[None]:
    """Callbacks by the hundred, all to a slow server."""
    executed = await execute(api, customer, parameters=SHORT, callback_url=slow.url)
    await until(api, executed.headers["location"], status="completed")
    due = CallbackDue(instance_id=executed.json()["instance_id"], ending=0)
    queue = system_task_queue(settings.task_queue, Queue.DELIVERY)
    started = [
        await system.start_workflow(CALLBACK, due, id=f"{settings.task_queue}/{number}", task_queue=queue)
        for number in range(FLOOD)
    ]
    yield
    loops = [system.get_workflow_handle(loop.workflow_id) for loop in LOOPS]
    for handle in (*started, *loops):
        with suppress(RPCError):  # it has completed, or was never started
            await handle.terminate()


async def _until_all_slots_are_taken(slow: SlowServer) -> None:
    async with asyncio.timeout(60):
        while slow.held < SLOTS:
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_flood_of_callbacks_delays_neither_the_projector_nor_the_outbox(
    api: Clients,
    customer: Customer,
    temporal: Client,
    system: Client,
    settings: Settings,
    database: Database,
    cipher: Cipher,
    flood: None,
    slow: SlowServer,
) -> None:
    waiting = (await execute(api, customer)).headers["location"]
    await until(api, waiting, current_step="wait_for_first_activity")
    few = settings.model_copy(update={"worker_max_activities": SLOTS - 2})
    async with polling(build_system_workers(temporal, system, few, database, cipher)):
        await _until_all_slots_are_taken(slow)
        for loop in LOOPS:
            if loop.workflow_id == "system/outbox" or loop.queue is Queue.PROJECTION:
                await start_loop(system, settings.task_queue, loop)
        sent = event(user_id=customer.user_id, event_type="engagement.page_view")
        assert (await api.integrator.post("/events", json=sent)).status_code == 202
        await _until_folded(database)
        when_folded = slow.received
        assert (await until(api, waiting, status="completed"))["reason"] == "activated"
        when_signalled = slow.received
    # In one queue, in order, both would have waited for the whole flood.
    assert max(when_folded, when_signalled) < FLOOD / 2


async def _until_folded(database: Database) -> None:
    async with asyncio.timeout(60), database.connection() as connection:
        while not await connection.fetchval("SELECT count(*) FROM sessions"):
            await asyncio.sleep(0.02)
