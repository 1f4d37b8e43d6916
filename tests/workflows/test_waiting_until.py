"""An instance shows until when it waits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Run, Runs


async def _left(runs: Runs, run: Run, results: set[str]) -> timedelta | None:
    """The time until the shown deadline, once these steps have their results; rounded to hours."""
    async with asyncio.timeout(60):
        while not results <= set((context := await runs.context(run)).results):
            await asyncio.sleep(0.02)
    until = context.waiting_until
    return None if until is None else timedelta(hours=round((until - datetime.now(UTC)).total_seconds() / 3600))


async def test_a_wait_shows_its_deadline_and_a_step_none(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await journeys.start(customer.user_id, "changing", parameters={"patience": "P2D"}, still=True)
    await journeys.until(run, "wait_for_never_comes")
    assert await _left(journeys, run, {"send_welcome"}) == timedelta(days=2)
    mail.refuse_recipients = "451 Try again later"
    await journeys.notify(run, "never.comes")
    await journeys.until_tried(run, "send_onboarding_nudge", 1)
    assert (await journeys.context(run)).waiting_until is None
    await run.handle.cancel()


async def test_of_parallel_waits_the_earliest_deadline_shows(journeys: Runs, customer: Customer) -> None:
    run = await journeys.start(customer.user_id, "rounds", parameters={"patience": "P3D", "rounds": 1}, still=True)
    await journeys.until(run, "other")
    async with asyncio.timeout(60):
        while len((await journeys.context(run)).waits_until) < 2:
            await asyncio.sleep(0.02)
    assert await _left(journeys, run, set()) == timedelta(hours=1)
    await run.handle.terminate()


async def test_a_step_of_one_branch_keeps_the_deadline_of_another(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await journeys.start(customer.user_id, "branches", still=True)
    sent = {"send_after_welcome", "send_after_onboarding_nudge"}
    assert await _left(journeys, run, sent) == timedelta(days=9)
    await run.handle.terminate()
