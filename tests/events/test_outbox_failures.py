"""Outbox entries that can't be delivered."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from activities.outbox import CONCURRENT_DELIVERIES, Outbox
from models.instances import NewInstance
from privacy.encryption import Cipher
from runtime.database import Database
from store import outbox
from store.connection import Connection
from store.instances import transitions
from store.outbox import GIVE_UP_AFTER
from store.users import data_keys
from testing.people import Customer
from tests.support.logs import logged
from tests.support.plans import explained
from worker import startables

SECRET = b"canary"
Delivering = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
def delivering(temporal: Client, database: Database, cipher: Cipher) -> Delivering:
    """The loop of the outbox's activity."""

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        delivery = Outbox(database, cipher, temporal, temporal, "failures", startables())
        task = asyncio.create_task(delivery.deliver_while(lambda: True))
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return run


async def _entries(connection: Connection) -> list[dict[str, Any]]:
    rows = await connection.fetch("SELECT *, due_at - now() AS pause FROM temporal_outbox ORDER BY outbox_id")
    return [dict(row) for row in rows]


async def _write(connection: Connection, kind: str, event_id: str, user_id: str, *, attempts: int = 0) -> str:
    """Write an entry for an unknown instance; returns the instance's id."""
    instance_id = uuid.uuid4().hex
    await connection.execute(
        """INSERT INTO temporal_outbox (kind, workflow_id, instance_id, step, user_id, event_id, event_type,
                                        event_timestamp, attempts)
           VALUES ($1, 'onboarding', $2, NULL, $3, $4, 'test', now(), $5)""",
        kind,
        instance_id,
        user_id,
        event_id,
        attempts,
    )
    return instance_id


async def _write_broken(connection: Connection, customer: Customer, *, attempts: int = 0) -> str:
    """Write a replay of a dead letter that can't be decrypted."""
    dead_letter_id = uuid.uuid4().hex
    instance_id = await _write(connection, "replay", dead_letter_id, customer.user_id, attempts=attempts)
    await connection.execute(
        """INSERT INTO dead_letters (dead_letter_id, workflow_id, instance_id, user_id, failed_step, run_id,
                                     error_type, error, attempts, status)
           VALUES ($1, 'onboarding', $2, $3, 'outside', 'run', 'ValueError', $4, 1, 'replaying')""",
        dead_letter_id,
        instance_id,
        customer.user_id,
        SECRET,
    )
    return instance_id


async def test_entries_that_cannot_be_delivered_delay_no_other(
    delivering: Delivering, database: Database, customer: Customer
) -> None:
    """There are more of them than concurrent deliveries, and all are older than the good one."""
    async with database.transaction() as connection:
        broken = {await _write_broken(connection, customer) for _ in range(CONCURRENT_DELIVERIES + 8)}
    async with database.transaction() as connection:
        good = await _write(connection, "signal", "e-1", customer.user_id)
    with logged("perennial.outbox") as lines:
        async with delivering(), database.connection() as connection, asyncio.timeout(60):
            while True:
                entries = await _entries(connection)
                tried = {each["instance_id"] for each in entries if each["attempts"]}
                if tried == broken and good not in {each["instance_id"] for each in entries}:
                    break
                await asyncio.sleep(0.02)
    assert {each["instance_id"] for each in entries} == broken  # none was removed
    logs = lines()
    assert {(line["level"], line["kind"], line["error"]["type"]) for line in logs} == {
        ("error", "replay", "privacy.encryption.DecryptionError")
    }
    assert SECRET.decode() not in str(logs)
    assert customer.user_id not in str(logs)


async def test_a_dead_entry_is_logged_and_a_cancellation_never_becomes_dead(
    delivering: Delivering, database: Database, cipher: Cipher, customer: Customer
) -> None:
    """The run of the cancelled instance may still reach Temporal, so its entry is retried soon and uncounted."""
    async with database.transaction() as connection:
        broken = await _write_broken(connection, customer, attempts=GIVE_UP_AFTER - 1)
        cancelled = await _write(connection, "cancel", "i-1", customer.user_id, attempts=GIVE_UP_AFTER + 20)
        key = await data_keys.require(connection, cipher, customer.user_id)
        await transitions.insert(
            connection, key, NewInstance(cancelled, "onboarding", customer.user_id, 3, {}, "test")
        )
    with logged("perennial.outbox") as lines:
        async with delivering(), database.connection() as connection, asyncio.timeout(60):
            pauses = {broken: timedelta(minutes=9), cancelled: timedelta(seconds=1)}
            entries: dict[str, dict[str, Any]] = {}
            while not all(entries and entries[each]["pause"] > pause for each, pause in pauses.items()):
                await asyncio.sleep(0.02)
                entries = {each["instance_id"]: each for each in await _entries(connection)}
    assert {each: entries[each]["dead"] for each in (broken, cancelled)} == {broken: True, cancelled: False}
    assert entries[cancelled]["attempts"] == GIVE_UP_AFTER + 20
    [dead] = [line for line in lines() if line["message"] == "an outbox entry is dead"]
    assert (dead["level"], dead["kind"], dead["workflow_id"], dead["attempts"]) == (
        "error",
        "replay",
        "onboarding",
        GIVE_UP_AFTER,
    )


async def test_the_query_for_due_entries_reads_no_dead_ones(
    database: Database, owner: Connection, customer: Customer
) -> None:
    async with database.transaction() as connection:
        for number in range(3):
            await _write(connection, "signal", f"e-{number}", customer.user_id)
    await owner.execute(
        """INSERT INTO temporal_outbox (kind, workflow_id, instance_id, step, user_id, event_id, event_type,
                                        event_timestamp, due_at, dead)
           SELECT 'signal', 'onboarding', 'i-' || n, 'wait', 'u', 'e', 'test', now(), now() - interval '1 day',
                  true
           FROM generate_series(1, 5000) AS numbers (n)"""
    )
    await owner.execute("ANALYZE temporal_outbox")
    async with database.transaction() as connection:
        [plan] = await explained(connection, lambda: outbox.due(connection, CONCURRENT_DELIVERIES, []))
    assert plan.rows_read("temporal_outbox") == 3
    assert plan.blocks < 10


@asynccontextmanager
async def _breaking_proxy(target: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A proxy's address, and an event. Once it is set, connections break before their bytes reach the target."""
    host, port = target.rsplit(":", 1)
    breaks = asyncio.Event()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while (data := await reader.read(65536)) and (answers or not breaks.is_set()):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_target, to_target = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, to_target, answers=False), copy(from_target, writer, answers=True))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", breaks


@pytest.mark.slow
async def test_a_connection_that_breaks_during_a_call_counts_no_attempt(
    temporal: Client, database: Database, cipher: Cipher, customer: Customer
) -> None:
    """The SDK repeats the call for ten seconds, and then gives the status UNKNOWN or CANCELLED."""
    async with (
        _breaking_proxy(temporal.service_client.config.target_host) as (address, breaks),
        database.connection() as connection,
    ):
        client = await Client.connect(address, data_converter=temporal.data_converter)
        breaks.set()
        await _write(connection, "signal", "e-1", customer.user_id)
        delivery = Outbox(database, cipher, client, client, "failures", startables())
        task = asyncio.create_task(delivery.deliver_while(lambda: True))
        async with asyncio.timeout(60):
            while (await _entries(connection))[0]["pause"] <= timedelta():
                await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [each["attempts"] for each in await _entries(connection)] == [0]
