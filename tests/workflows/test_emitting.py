"""Events that workflows record: once, under consent, and seen by the instance's own waits."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from activities.events import Events, emitted_event_id
from models.rules.event_types import EventType
from models.rules.stages import STAGE_CHANGED
from models.temporal.execution import NewEvent, StepContext
from models.vocabulary import Basis, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.events import types
from testing.people import Customer
from testing.runs import Runs
from tests.support.log import Log


async def test_an_instance_receives_the_event_that_it_emitted(
    journeys: Runs, database: Database, cipher: Cipher
) -> None:
    customer = await Customer.new(database, cipher, Purpose.DATA_COLLECTION)
    run = await journeys.start(customer.user_id, "emitter")
    assert (await run.handle.result()).reason == "received"


async def test_without_consent_the_event_is_not_stored_and_the_journey_continues(
    journeys: Runs, database: Database, cipher: Cipher
) -> None:
    customer = await Customer.new(database, cipher)
    run = await journeys.start(customer.user_id, "emitter")
    assert (await run.handle.result()).reason == "nothing"
    emission = (await journeys.context(run)).results["emit_emitter_done"]
    assert (emission["status"], emission["reason"]) == ("rejected", "consent_required")
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM events") == 0


async def test_without_consent_an_event_under_contract_is_stored_and_the_instance_receives_it(
    journeys: Runs, database: Database, cipher: Cipher
) -> None:
    customer = await Customer.new(database, cipher)
    async with database.transaction() as connection:
        await types.declare(
            connection, EventType("emitter.done", "", {}), Basis.CONTRACT, "a contract", actor="test"
        )
    run = await journeys.start(customer.user_id, "emitter")
    assert (await run.handle.result()).reason == "received"
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT basis FROM events") == "contract"


def bound(customer: Customer, **properties: object) -> NewEvent:
    context = StepContext(
        workflow_id="emitter", instance_id="i-1", user_id=customer.user_id, step="emit", position=1, max_attempts=3
    )
    return NewEvent(event_type="emitter.done", properties=properties, context=context)


async def test_the_event_of_a_stage_is_recorded_by_set_stage_alone(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    event = bound(customer).model_copy(update={"event_type": STAGE_CHANGED})
    with pytest.raises(ApplicationError, match="use set_stage"):
        await Events(database, cipher).emit(event)


async def test_an_attempt_that_is_repeated_after_its_commit_counts_once(
    database: Database, cipher: Cipher
) -> None:
    """The process died between the commit and the recording of the step: the next attempt emits again."""
    customer = await Customer.new(database, cipher, Purpose.DATA_COLLECTION)
    first = await Events(database, cipher).emit(bound(customer, said="hello"))
    second = await Events(database, cipher).emit(bound(customer, said="hello"))
    assert (first.status, second.status) == ("accepted", "duplicate")
    assert first.event_id == second.event_id == emitted_event_id(bound(customer).step_context)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM events") == 1


async def test_an_emitted_event_makes_no_session(database: Database, cipher: Cipher) -> None:
    customer = await Customer.new(database, cipher, Purpose.DATA_COLLECTION)
    await Events(database, cipher).emit(bound(customer))
    log = Log(database, cipher)
    await log.project()
    assert (await log.activity(customer.user_id)).session_count == 0


async def test_an_event_that_does_not_fit_its_schema_fails_the_instance_and_shows_the_place(
    journeys: Runs, database: Database, cipher: Cipher
) -> None:
    customer = await Customer.new(database, cipher, Purpose.DATA_COLLECTION)
    schema = {"type": "object", "properties": {"large": {"type": "string"}}}
    async with database.transaction() as connection:
        await types.declare(connection, EventType("emitter.done", "", schema, (), ()), actor="test")
    run = await journeys.start(customer.user_id, "emitter")
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    error = (await journeys.context(run)).error
    assert error is not None
    assert (error["error_type"], error["failed_step"]) == ("InvalidEvent", "emit_emitter_done")
    assert "/event_properties/large" in error["error_message"]


async def test_a_changed_declaration_holds_for_the_next_event_of_a_workflow(
    journeys: Runs, database: Database, cipher: Cipher
) -> None:
    """The worker has read the type before: what it remembers doesn't outlive a change."""
    wanted: dict[str, Any] = {}
    for dimensions in (["large"], [], ["large"]):
        customer = await Customer.new(database, cipher, Purpose.DATA_COLLECTION)
        async with database.transaction() as connection:
            declared = EventType("emitter.done", "", {}, (), tuple(dimensions))
            await types.declare(connection, declared, actor="test")
        run = await journeys.start(customer.user_id, "emitter")
        assert (await run.handle.result()).reason == "received"
        wanted[customer.user_id] = {"large": True} if dimensions else None
    async with database.connection() as connection:
        stored = await connection.fetch("SELECT user_id, dimensions FROM events")
    assert {row["user_id"]: row["dimensions"] for row in stored} == wanted
