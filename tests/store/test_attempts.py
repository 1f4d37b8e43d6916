"""The one statement that begins a step's attempt."""

from __future__ import annotations

import pytest

from models.errors import UserErased
from models.messages.execution import StepContext
from privacy.sealing import Sealer
from runtime.database import Database
from store import data_keys, instances, steps
from store.instances import NewInstance
from tests.support.people import Customer


async def test_a_step_of_an_erased_person_leaves_no_attempt_and_moves_nothing(
    database: Database, sealer: Sealer
) -> None:
    user_id = (await Customer.new(database, sealer)).user_id
    async with database.transaction() as connection:
        key = await data_keys.require(connection, sealer, user_id)
        await instances.insert(connection, key, NewInstance("i-1", "onboarding", user_id, 3, {}, "test"))
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", user_id)
    context = StepContext(
        workflow_id="onboarding", instance_id="i-1", user_id=user_id, step="first", position=1, max_attempts=3
    )
    async with database.connection() as connection:
        with pytest.raises(UserErased):
            await steps.begin_attempt(connection, sealer, context, "run")
        assert await connection.fetchval("SELECT count(*) FROM attempts") == 0
        assert await connection.fetchval("SELECT num_nulls(current_step, run_id) FROM instances") == 2


async def test_a_step_that_begins_gives_the_key_that_seals_its_result(database: Database, sealer: Sealer) -> None:
    user_id = (await Customer.new(database, sealer)).user_id
    context = StepContext(
        workflow_id="onboarding", instance_id="i-1", user_id=user_id, step="first", position=1, max_attempts=3
    )
    async with database.transaction() as connection:
        key = await data_keys.require(connection, sealer, user_id)
        await instances.insert(connection, key, NewInstance("i-1", "onboarding", user_id, 3, {}, "test"))
    async with database.connection() as connection:
        begun, key = await steps.begin_attempt(connection, sealer, context, "run")
        assert (begun.number, begun.done, begun.known) == (1, False, True)
        await steps.complete_attempt(connection, context, begun.number, key, {"stage": "active"})
        again, key = await steps.begin_attempt(connection, sealer, context, "run")
        assert again.done
        assert key.open_json("steps.result", again.result) == {"stage": "active"}
