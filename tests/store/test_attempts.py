"""The statement that begins an attempt."""

from __future__ import annotations

import pytest

from models.errors import UserErasedError
from models.instances import NewInstance
from models.temporal.execution import StepContext
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import attempts, transitions
from store.users import data_keys
from testing.people import Customer


async def test_a_step_of_an_erased_person_writes_nothing(database: Database, cipher: Cipher) -> None:
    user_id = (await Customer.new(database, cipher)).user_id
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, user_id)
        await transitions.insert(connection, key, NewInstance("i-1", "onboarding", user_id, 3, {}, "test"))
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", user_id)
    context = StepContext(
        workflow_id="onboarding", instance_id="i-1", user_id=user_id, step="first", position=1, max_attempts=3
    )
    async with database.connection() as connection:
        with pytest.raises(UserErasedError):
            await attempts.begin_attempt(connection, cipher, context, "run")
        assert await connection.fetchval("SELECT count(*) FROM attempts") == 0
        assert await connection.fetchval("SELECT num_nulls(current_step, run_id) FROM instances") == 2


async def test_a_step_that_begins_returns_the_key_that_encrypts_its_result(
    database: Database, cipher: Cipher
) -> None:
    user_id = (await Customer.new(database, cipher)).user_id
    context = StepContext(
        workflow_id="onboarding", instance_id="i-1", user_id=user_id, step="first", position=1, max_attempts=3
    )
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, user_id)
        await transitions.insert(connection, key, NewInstance("i-1", "onboarding", user_id, 3, {}, "test"))
    async with database.connection() as connection:
        begun, key = await attempts.begin_attempt(connection, cipher, context, "run")
        assert (begun.number, begun.done, begun.known) == (1, False, True)
        await attempts.complete_attempt(connection, context, begun.number, key, {"stage": "active"})
        again, key = await attempts.begin_attempt(connection, cipher, context, "run")
        assert again.done
        assert key.decrypt_json("steps.result", again.result, "i-1", context.step) == {"stage": "active"}
