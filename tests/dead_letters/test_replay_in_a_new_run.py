"""A step failed, its journey lived with that into a new run, and gave up there: a replay tries that step again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

from models.vocabulary import DeadLetterStatus, InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import EncryptedPayloads
from tests.dead_letters.conftest import Stage, set_up, working
from tests.dead_letters.journeys import LivesWithIt
from tests.support.people import Customer
from tests.support.temporal import skipping_temporal

ROUNDS = 16


@pytest.fixture(scope="module")
async def impatient(codec: EncryptedPayloads) -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal that finds a history long when it has sixty events."""
    async with skipping_temporal(codec, "limit.historyCount.suggestContinueAsNew=60") as environment:
        yield environment


@pytest.fixture
async def played(
    impatient: WorkflowEnvironment, database: Database, cipher: Cipher, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    queue = tmp_path_factory.mktemp("new-run").name
    async with (
        set_up(impatient, database, cipher, queue) as stage,
        working(stage.runs, stage.acts, [LivesWithIt]),
    ):
        yield stage


async def test_what_was_done_in_either_run_has_no_second_effect(played: Stage, customer: Customer) -> None:
    played.acts.failing = {"two"}
    run = await played.failed(customer, "lives_with_it", rounds=ROUNDS, rest="PT0.02S")
    letter = await played.letter(run)
    assert letter.run_id != run.handle.first_execution_run_id
    assert (letter.failed_step, letter.attempts) == ("two", 1)
    assert played.acts.effects["two"] == 0

    await played.replay(letter)  # in vain: the same letter, from the run that gave up this time
    again = await played.letter(run)
    assert (again.dead_letter_id, again.attempts) == (letter.dead_letter_id, 2)
    assert again.run_id != letter.run_id

    played.acts.failing = set()
    await played.replay(again)
    assert await played.ended(run) is InstanceStatus.COMPLETED
    await played.letter(run, DeadLetterStatus.REPLAYED)
    rounds = ["round", *(f"round_{number}" for number in range(2, ROUNDS + 1))]
    assert played.acts.effects == dict.fromkeys(("before", "one", "two", "three", *rounds, "after"), 1)
    context = await played.runs.context(run)
    assert {"before", "one", "two", "three", *rounds, "after"} <= set(context.results)
    tried = [each.attempt for each in context.attempts if each.step == "two"]
    assert tried == [1, 2, 3]
