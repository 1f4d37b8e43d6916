"""The lifecycle workflows over weeks of virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Run, Runs
from testing.samples import parameters_of
from testing.temporal import DAY
from tests.support.log import Happening, Log
from workflows.catalog import Definition, catalog

BERLIN = "Europe/Berlin"


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    """A customer in Berlin with consent to marketing."""
    return await Customer.new(database, cipher, Purpose.MARKETING, Purpose.DATA_COLLECTION, timezone=BERLIN)


def subjects(mail: MailServer, customer: Customer) -> list[str]:
    """Subjects of the customer's messages, with a fixed name."""
    return [str(each["Subject"]).replace(customer.name, "Ada") for each in mail.to(customer.email)]


async def emitted(runs: Runs, customer: Customer) -> list[str]:
    """Types of the events that workflows have recorded of a customer."""
    async with runs.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT event_type FROM events WHERE user_id = $1 AND session_id LIKE 'workflow:%' ORDER BY timestamp",
            customer.user_id,
        )
    return [row["event_type"] for row in rows]


async def results(runs: Runs, run: Run) -> Mapping[str, Any]:
    return (await runs.context(run)).results


def local_hour(results: Mapping[str, Any], step: str) -> tuple[int, int]:
    """The ISO weekday and the hour in Berlin at which a sleep ended."""
    until = datetime.fromisoformat(results[step]["until"]).astimezone(ZoneInfo(BERLIN))
    return until.isoweekday(), until.hour


def where_it_is_noon() -> str:
    """A time zone. In `Etc/GMT` names a plus means west."""
    ahead = 12 - datetime.now(UTC).hour
    return f"Etc/GMT{-ahead:+d}"


async def lasted(run: Run, since: datetime) -> timedelta:
    closed = (await run.handle.describe()).close_time
    assert closed is not None
    return closed - since


# All of them


@pytest.mark.parametrize("definition", catalog().values(), ids=lambda each: each.workflow_id)
async def test_each_ends_at_once_at_any_hour_if_its_waits_take_no_time(
    runs: Runs, customer: Customer, definition: Definition
) -> None:
    """Fails if a wait isn't limited by a parameter."""
    no_time = parameters_of(definition, durations="PT0S")
    run = await runs.start(customer.user_id, definition.workflow_id, parameters=no_time, still=True)
    try:
        async with asyncio.timeout(20):
            await run.handle.result()
    except TimeoutError:
        pytest.fail(f"no parameter limits the wait {(await runs.context(run)).current_step}")
    assert (await runs.context(run)).status is InstanceStatus.COMPLETED


@pytest.mark.parametrize(
    ("workflow_id", "purpose", "once_per"),
    [
        ("cart_recovery", "marketing", 7 * DAY),
        ("churn_prevention", "marketing", 60 * DAY),
        ("post_purchase", None, 30 * DAY),
        ("trial_conversion", "marketing", 365 * DAY),
        ("win_back", "marketing", 180 * DAY),
    ],
)
def test_the_triggers_of_these_start_one_instance_in_a_while(
    workflow_id: str, purpose: str | None, once_per: timedelta
) -> None:
    definition = catalog()[workflow_id]
    assert (definition.purpose, definition.once_per, definition.once) == (purpose, once_per, False)


# Cart recovery


async def test_an_abandoned_cart_gets_three_reminders_and_none_at_night(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    began = datetime.now(UTC)
    run = await runs.start(customer.user_id, "cart_recovery")
    assert (await run.handle.result()).reason == "not_purchased"
    assert subjects(mail, customer) == [
        "Ada, your cart is waiting",
        "Ada, can we help with your cart?",
        "Ada, we clear your cart soon",
    ]
    context = await runs.context(run)
    assert (context.status, context.reason) == (InstanceStatus.COMPLETED, "not_purchased")
    assert context.variables == {"reminders": 3}
    for template in ("cart_reminder", "cart_help", "cart_last_call"):
        assert 8 <= local_hour(context.results, f"wait_for_morning_before_{template}")[1] < 21
    assert 7 * DAY <= await lasted(run, began) < 10 * DAY


async def test_a_purchase_ends_the_reminders_at_once(runs: Runs, customer: Customer, mail: MailServer) -> None:
    run = await runs.start(customer.user_id, "cart_recovery", still=True)
    await runs.until(run, "wait_for_end_of_shopping")
    await runs.notify(run, "transaction.purchase_complete")
    assert (await run.handle.result()).reason == "purchased"
    assert mail.received == []
    context = await runs.context(run)
    assert (context.status, context.reason, context.end_time is None) == (
        InstanceStatus.COMPLETED,
        "purchased",
        False,
    )


async def test_a_purchase_after_the_first_reminder_prevents_the_second(
    runs: Runs, database: Database, cipher: Cipher, mail: MailServer
) -> None:
    customer = await Customer.new(database, cipher, Purpose.MARKETING, timezone=where_it_is_noon())
    run = await runs.start(customer.user_id, "cart_recovery", still=True)
    await runs.until(run, "wait_for_end_of_shopping")
    await runs.environment.fast_forward(run.handle, timedelta(hours=1))
    await runs.until(run, "wait_before_second_reminder")
    await runs.notify(run, "transaction.purchase_complete")
    assert (await run.handle.result()).reason == "purchased"
    assert subjects(mail, customer) == ["Ada, your cart is waiting"]


async def test_a_customer_who_keeps_shopping_gets_no_reminder_yet(
    runs: Runs, customer: Customer, mail: MailServer, cipher: Cipher
) -> None:
    """The hour counts from the last item."""
    run = await runs.start(customer.user_id, "cart_recovery", still=True)
    await runs.until(run, "wait_for_end_of_shopping")
    later = datetime.now(UTC) + timedelta(minutes=30)
    await Log(runs.database, cipher).write(Happening(customer.user_id, "transaction.cart_add", later))
    await runs.environment.fast_forward(run.handle, timedelta(hours=1, minutes=5))
    assert (await runs.context(run)).current_step == "wait_for_end_of_shopping"
    await runs.environment.fast_forward(run.handle, timedelta(minutes=30))
    async with asyncio.timeout(60):
        while (await runs.context(run)).current_step == "wait_for_end_of_shopping":
            await asyncio.sleep(0.02)
    assert (await results(runs, run))["wait_for_end_of_shopping"]["inactive"] is True
    await run.handle.terminate()


# After a purchase


async def test_a_buyer_is_thanked_helped_and_asked(runs: Runs, customer: Customer, mail: MailServer) -> None:
    run = await runs.start(customer.user_id, "post_purchase")
    assert (await run.handle.result()).reason == "asked"
    assert subjects(mail, customer) == [
        "Thank you, Ada",
        "Ada, is everything as it should be?",
        "Ada, how did it go?",
    ]
    context = await runs.context(run)
    weekday, hour = local_hour(context.results, "wait_for_a_weekday_at_ten")
    assert (weekday <= 5, hour) == (True, 10)
    assert context.variables == {"bought_again": False}


async def test_a_second_purchase_is_recorded_once_and_ends_the_instance(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, "post_purchase", still=True)
    await runs.until(run, "wait_before_thanks")
    await runs.notify(run, "transaction.purchase_complete")
    await runs.environment.fast_forward(run.handle)
    assert (await run.handle.result()).reason == "bought_again"
    assert await emitted(runs, customer) == ["lifecycle.second_purchase"]


async def test_a_second_purchase_counts_after_any_number_of_later_page_views(
    runs: Runs, customer: Customer, cipher: Cipher
) -> None:
    """It comes before the wait: the look at the log must find it among 1,500 events."""
    instance = await runs.stored(customer.user_id, "post_purchase")
    log, now = Log(runs.database, cipher), datetime.now(UTC)
    await log.write(Happening(customer.user_id, "transaction.purchase_complete", now, historical=False))
    views = (now + timedelta(milliseconds=number) for number in range(1, 1501))
    await log.write(*(Happening(customer.user_id, timestamp=each, historical=False) for each in views))
    run = await runs.begin(instance)
    assert (await run.handle.result()).reason == "bought_again"


async def test_a_refund_ends_it_before_the_question(runs: Runs, customer: Customer, mail: MailServer) -> None:
    run = await runs.start(customer.user_id, "post_purchase", parameters={"order_id": "o-1"}, still=True)
    await runs.until(run, "wait_before_thanks")
    await runs.notify(run, "transaction.refund", step="~exit_1")
    assert (await run.handle.result()).reason == "refunded"
    assert mail.received == []


# Churn prevention


async def test_an_inactive_customer_gets_two_messages(runs: Runs, customer: Customer, mail: MailServer) -> None:
    began = datetime.now(UTC)
    run = await runs.start(customer.user_id, "churn_prevention")
    assert (await run.handle.result()).reason == "not_returned"
    assert subjects(mail, customer) == ["Ada, all well?", "Ada, what is missing?"]
    assert local_hour(await results(runs, run), "wait_for_ten_before_what_is_missing")[1] == 10
    assert 21 * DAY <= await lasted(run, began) < 24 * DAY
    assert await customer.stage() == "onboarding", "the rules move it"


async def test_a_customer_who_returns_after_the_first_message_gets_no_second_one(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await runs.start(customer.user_id, "churn_prevention", still=True)
    await runs.until(run, "wait_for_ten_before_we_miss_you")
    await runs.environment.fast_forward(run.handle, DAY)
    await runs.until(run, "wait_after_we_miss_you")
    await runs.notify(run, "engagement.page_view")
    assert (await run.handle.result()).reason == "retained"
    assert subjects(mail, customer) == ["Ada, all well?"]


# Win-back


async def test_a_dormant_customer_gets_three_messages_and_no_more(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    began = datetime.now(UTC)
    run = await runs.start(customer.user_id, "win_back")
    assert (await run.handle.result()).reason == "lost"
    assert subjects(mail, customer) == ["Ada, what is new", "Ada, something to come back for", "Goodbye, Ada?"]
    assert "set_stage" not in await results(runs, run)
    for template in ("whats_new", "comeback_offer", "goodbye"):
        weekday, hour = local_hour(await results(runs, run), f"wait_for_ten_before_{template}")
        assert (weekday <= 5, hour) == (True, 10)
    assert 79 * DAY <= await lasted(run, began) < 92 * DAY


@pytest.mark.parametrize(
    ("sign", "reason"), [("user.login", "returned"), ("transaction.purchase_complete", "purchased")]
)
async def test_activity_ends_win_back(
    runs: Runs, customer: Customer, mail: MailServer, sign: str, reason: str
) -> None:
    run = await runs.start(customer.user_id, "win_back", still=True)
    await runs.until(run, "wait_before_whats_new")
    await runs.notify(run, sign)
    assert (await run.handle.result()).reason == reason
    assert "set_stage" not in await results(runs, run)
    assert await emitted(runs, customer) == ["lifecycle.won_back"]
    assert mail.received == []


# Trial conversion


async def test_an_unused_trial_is_helped_reminded_and_offered_an_extension(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    began = datetime.now(UTC)
    run = await runs.start(customer.user_id, "trial_conversion")
    assert (await run.handle.result()).reason == "not_converted"
    assert subjects(mail, customer) == [
        "Ada, the first step of your trial",
        "Ada, shall we set it up together?",
        "Ada, your trial ends soon",
        "Ada, your trial ends tomorrow",
        "Ada, a little longer?",
    ]
    assert "set_stage" not in await results(runs, run)
    assert 17 * DAY <= await lasted(run, began) < 18 * DAY
    ends = datetime.fromisoformat((await results(runs, run))["wait_for_end"]["until"])
    assert abs(ends - began - 14 * DAY) < timedelta(minutes=5)


async def test_a_used_trial_gets_a_message_about_further_features(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await runs.start(customer.user_id, "trial_conversion", still=True)
    await runs.until(run, "wait_for_first_use")
    await runs.notify(run, "engagement.feature_click")
    await runs.until(run, "wait_for_halfway")
    await runs.environment.fast_forward(run.handle)
    await run.handle.result()
    assert subjects(mail, customer)[0] == "Ada, there is more in your trial"
    assert len(mail.received) == 4


async def test_a_trial_that_converts_ends(runs: Runs, customer: Customer, mail: MailServer) -> None:
    run = await runs.start(customer.user_id, "trial_conversion", still=True)
    await runs.until(run, "wait_for_first_use")
    await runs.notify(run, "transaction.purchase_complete")
    assert (await run.handle.result()).reason == "converted"
    assert "set_stage" not in await results(runs, run)
    assert mail.received == []
