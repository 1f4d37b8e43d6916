"""Marketing messages leave outside the customer's quiet hours, unless their author says otherwise."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Run, Runs
from testing.temporal import DAY
from workflows.catalog import catalog


def zone_at(hour: int) -> str:
    """A time zone in which it is this hour, or a little later, for at least half an hour more."""
    ahead = (hour - (datetime.now(UTC) + timedelta(minutes=30)).hour) % 24
    ahead = ahead - 24 if ahead > 12 else ahead
    return f"Etc/GMT{-ahead:+d}"  # the signs of these names are reversed


@pytest.fixture
def zone() -> str:
    return zone_at(1)


@pytest.fixture
async def customer(database: Database, cipher: Cipher, zone: str) -> Customer:
    return await Customer.new(database, cipher, Purpose.MARKETING, Purpose.DATA_COLLECTION, timezone=zone)


def subjects(mail: MailServer, customer: Customer) -> list[str]:
    return [message["Subject"].removeprefix(f"{customer.name}, ") for message in mail.to(customer.email)]


async def waited(runs: Runs, run: Run, zone: str) -> dict[str, int]:
    """The local hours at which waits for an hour ended, by the names of the messages."""
    results: dict[str, Any] = dict((await runs.context(run)).results)
    return {
        name.rsplit("_before_", 1)[-1]: datetime.fromisoformat(result["until"]).astimezone(ZoneInfo(zone)).hour
        for name, result in results.items()
        if "_before_" in name and name.startswith(("wait_for_morning", "wait_for_good_hour"))
    }


async def test_each_reminder_of_a_trial_waits_for_the_morning(
    runs: Runs, customer: Customer, mail: MailServer, zone: str
) -> None:
    began = datetime.now(UTC)
    run = await runs.start(customer.user_id, "trial_conversion")
    assert (await run.handle.result()).reason == "not_converted"
    assert subjects(mail, customer)[2:4] == ["your trial ends soon", "your trial ends tomorrow"]
    found = await waited(runs, run, zone)
    assert (found["reminder"], found["last_call"]) == (8, 8)
    results = (await runs.context(run)).results
    ends = datetime.fromisoformat(results["wait_for_end"]["until"])
    assert abs(ends - began - 14 * DAY) < timedelta(minutes=5)
    assert datetime.fromisoformat(results["wait_for_morning_before_last_call"]["until"]) < ends
    await runs.replay(run)


async def test_a_last_call_whose_morning_comes_after_the_end_is_left_out(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    waits = {"last_call_before_end": "PT2H", "reminder_before_end": "PT3H"}
    run = await runs.start(customer.user_id, "trial_conversion", parameters=waits)
    await run.handle.result()
    assert not {"your trial ends soon", "your trial ends tomorrow"} & set(subjects(mail, customer))
    assert len(mail.received) == 3


async def test_with_no_time_to_wait_messages_leave_at_any_hour(
    runs: Runs, customer: Customer, mail: MailServer, zone: str
) -> None:
    run = await runs.start(customer.user_id, "trial_conversion", parameters={"good_hour_within": "P0D"})
    await run.handle.result()
    assert len(mail.received) == 5
    assert "last_call" not in await waited(runs, run, zone)


async def test_a_marketing_workflow_waits_unless_its_author_says_otherwise(
    journeys: Runs, customer: Customer, mail: MailServer, zone: str
) -> None:
    run = await journeys.start(customer.user_id, "night_owl")
    await run.handle.result()
    assert len(mail.received) == 2
    assert await waited(journeys, run, zone) == {"order_thanks": 8}
    await journeys.replay(run)


async def test_a_service_workflow_does_not_wait(
    runs: Runs, customer: Customer, mail: MailServer, zone: str
) -> None:
    run = await runs.start(customer.user_id, "onboarding", still=True)
    await runs.until(run, "wait_for_first_activity")
    assert len(mail.received) == 1
    assert await waited(runs, run, zone) == {}
    await run.handle.terminate()


async def test_after_a_pause_into_the_night_a_message_waits_again(
    runs: Runs, database: Database, cipher: Cipher, mail: MailServer
) -> None:
    """The wait for ten o'clock on a weekday is over by then."""
    customer = await Customer.new(
        database, cipher, Purpose.MARKETING, Purpose.DATA_COLLECTION, timezone=zone_at(9)
    )
    run = await runs.start(customer.user_id, "win_back", still=True, parameters={"news_after": "PT0S"})
    await runs.until(run, "wait_for_ten_before_whats_new")
    await run.handle.execute_update("pause")
    await runs.environment.fast_forward(run.handle, timedelta(days=3, hours=15))
    await run.handle.execute_update("resume")
    await runs.until(run, "wait_for_good_hour_before_whats_new")
    assert mail.received == []
    await run.handle.terminate()


def test_every_marketing_workflow_that_sends_limits_the_wait_by_a_parameter() -> None:
    for definition in catalog().values():
        if definition.purpose is Purpose.MARKETING and "self.send(" in inspect.getsource(
            definition.implementation
        ):
            assert "good_hour_within" in definition.parameters.model_fields, (
                f"{definition.workflow_id} needs a parameter good_hour_within, since it sends marketing messages"
            )
