"""`kill -9` of the worker at each point of the crash arguments: each message is sent once.

The mail server kills the worker at a given point of the SMTP conversation, and counts the messages that it got.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Run, Runs
from tests.support.processes import PerennialProcess

SHORT = {"first_activity_within": "PT0.1S", "nudge_within": "PT0.1S"}


class Stage:
    """A worker process that can be killed, and the customer and mail server of its workflow."""

    def __init__(self, runs: Runs, worker: PerennialProcess, mail: MailServer, customer: Customer) -> None:
        self.runs = runs
        self.worker = worker
        self.mail = mail
        self.customer = customer

    async def run_with_one_death(self) -> Run:
        """Run an onboarding whose worker is killed; a new worker takes over."""
        run = await self.runs.start(self.customer.user_id, still=True, parameters=SHORT)
        await self.worker.start()
        await self.worker.wait()
        await self.worker.start()
        async with asyncio.timeout(60):
            await run.handle.result()
        return run

    def subjects(self) -> list[str]:
        """The messages that have arrived, in order."""
        return [str(message["Subject"]) for message in self.mail.to(self.customer.email)]

    def expected(self) -> list[str]:
        """A welcome and a nudge, each once."""
        name = self.customer.name
        return [f"Welcome, {name}", f"{name}, shall we help you get started?"]


@pytest.fixture
async def stage(
    skipping: WorkflowEnvironment,
    database: Database,
    database_url: str,
    cipher: Cipher,
    key_file: Path,
    customer: Customer,
    tmp_path: Path,
) -> AsyncIterator[Stage]:
    async with MailServer() as mail:
        settings = Settings(
            environment="embedded",
            database_url=database_url,
            key_file=key_file,
            temporal_address=skipping.client.service_client.config.target_host,
            task_queue=f"killed-{tmp_path.name}",
            smtp_url=mail.url,
            smtp_from="Perennial <hello@shop.example.com>",
        )
        worker = PerennialProcess("worker", settings, tmp_path)
        runs = Runs(skipping, database, cipher, settings.task_queue)
        yield Stage(runs, worker, mail, customer)
        await worker.end()


@pytest.mark.slow
async def test_a_message_is_sent_later_where_the_worker_died_before_it_could_leave(stage: Stage) -> None:
    def die_once(address: str) -> None:
        stage.mail.on_recipient = None
        stage.worker.kill()

    stage.mail.on_recipient = die_once
    run = await stage.run_with_one_death()
    assert stage.subjects() == stage.expected()
    context = await stage.runs.context(run)
    assert context.results["send_welcome"]["status"] == "sent"
    assert [(attempt.attempt, attempt.interrupted) for attempt in context.attempts[:2]] == [(1, True), (2, False)]


@pytest.mark.slow
async def test_a_message_is_sent_once_where_the_worker_died_between_sending_and_recording(stage: Stage) -> None:
    async def die_once(message: object) -> None:
        stage.mail.answer = None
        stage.worker.kill()

    stage.mail.answer = die_once
    run = await stage.run_with_one_death()
    assert stage.subjects() == stage.expected()
    context = await stage.runs.context(run)
    assert context.results["send_welcome"]["status"] == "unconfirmed"
    assert context.error is None


@pytest.mark.slow
async def test_a_message_is_sent_once_where_the_worker_died_after_recording(stage: Stage) -> None:
    async def watch() -> None:
        async with stage.runs.database.connection() as connection:
            while not await connection.fetchval(
                "SELECT count(*) FROM messages WHERE status = 'sent' AND user_id = $1", stage.customer.user_id
            ):
                await asyncio.sleep(0)
        stage.worker.kill()

    watching = asyncio.create_task(watch())
    await stage.run_with_one_death()
    await watching
    assert stage.subjects() == stage.expected()


@pytest.mark.slow
async def test_attempts_that_were_killed_do_not_count_towards_max_attempts(stage: Stage) -> None:
    deaths = 2

    def die_some_times(address: str) -> None:
        nonlocal deaths
        deaths -= 1
        if deaths == 0:
            stage.mail.on_recipient = None
        stage.worker.kill()

    stage.mail.on_recipient = die_some_times
    run = await stage.runs.start(stage.customer.user_id, still=True, max_attempts=1, parameters=SHORT)
    for _ in range(2):
        await stage.worker.start()
        await stage.worker.wait()
    await stage.worker.start()
    async with asyncio.timeout(60):
        assert (await run.handle.result()).status == "completed"
    assert stage.subjects() == stage.expected()
