"""Decisions of a journey: by the profile, by the first of several events, and how the instance shows them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from models.rules.activity import Activity, CurrencyTotal
from models.rules.known_profile import known_profile
from models.rules.profile import Profile, age_on
from models.temporal.profiles import KnownBehavior, KnownDemographics, KnownTransactions
from models.vocabulary import AccountStatus, LifecycleStage, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Runs
from tests.events.test_outbox import Log as EventLog
from tests.support.choosing import CHOOSING
from worker import build_worker

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ALL = (Purpose.DATA_COLLECTION, Purpose.PROFILING, Purpose.MARKETING)


@pytest.fixture
async def choosing(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings
) -> AsyncIterator[Runs]:
    async with build_worker(skipping.client, worker_settings, database, cipher, lifecycles=CHOOSING):
        yield Runs(skipping, database, cipher, worker_settings.task_queue, CHOOSING)


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> EventLog:
    return EventLog(database, cipher, customer)


PERSON = Profile(
    user_id="u-1",
    email="ada@example.com",
    name="Ada",
    signup_date=NOW - timedelta(days=9),
    account_status=AccountStatus.ACTIVE,
    lifecycle_stage=LifecycleStage.ONBOARDING,
    demographics={"age": 50, "date_of_birth": "1992-01-01", "country": "DE", "timezone": "Europe/Berlin"},
    consents={purpose.value: True for purpose in ALL},
    subscription_tier="pro",
)
ACTIVITY = Activity(session_count=4, last_session_date=NOW)


def test_a_marketing_workflow_knows_all_groups_under_their_consents() -> None:
    known = known_profile(PERSON, ACTIVITY, Purpose.MARKETING, NOW, Decimal(3))
    assert known.demographics == KnownDemographics(age=age_on(NOW.date(), date(1992, 1, 1)), country="DE")
    assert known.behavior == KnownBehavior(session_count=4, last_session_date=NOW, engagement_score=40.0)
    assert known.transactions == KnownTransactions(subscription_tier="pro")
    for personal in ("ada", "Ada", "1992", "Berlin"):
        assert personal not in known.model_dump_json()


def test_a_workflow_knows_how_often_a_person_buys_and_the_value_to_expect() -> None:
    first, last = NOW - timedelta(days=60), NOW - timedelta(days=1)
    bought = replace(ACTIVITY, totals=(CurrencyTotal("USD", 3, Decimal("90.00"), last, first),))
    known = known_profile(PERSON, bought, Purpose.MARKETING, NOW, Decimal(3)).transactions
    assert (known.purchase_frequency, known.customer_lifetime_value) == (1.5, Decimal("1642.50"))
    core = known_profile(PERSON, bought, None, NOW, Decimal(3)).transactions
    assert core == KnownTransactions()


@pytest.mark.parametrize(
    ("purpose", "missing", "groups"),
    [
        (None, None, False),
        (Purpose.MARKETING, Purpose.MARKETING, False),
        (Purpose.MARKETING, Purpose.DATA_COLLECTION, False),
        (Purpose.MARKETING, Purpose.PROFILING, True),
        (Purpose.PROFILING, Purpose.MARKETING, True),
    ],
)
def test_no_group_is_known_without_the_consents_that_cover_it(
    purpose: Purpose | None, missing: Purpose | None, groups: bool
) -> None:
    consents = {each.value: each is not missing for each in ALL}
    known = known_profile(replace(PERSON, consents=consents), ACTIVITY, purpose, NOW, Decimal(3))
    assert (known.account_status, known.lifecycle_stage) == ("active", "onboarding")
    assert (known.demographics.country == "DE") is groups
    assert (known.behavior.session_count == 4) is groups
    assert (known.transactions.subscription_tier == "pro") is groups
    assert (known.behavior.engagement_score is not None) is (groups and missing is not Purpose.PROFILING)


async def test_a_journey_reads_the_profile_at_the_moment_that_it_asks(
    choosing: Runs, database: Database, cipher: Cipher
) -> None:
    customer = await Customer.new(
        database, cipher, Purpose.DATA_COLLECTION, Purpose.MARKETING, timezone="Europe/Berlin"
    )
    async with database.connection() as connection:
        await connection.execute("UPDATE users SET country = 'DE' WHERE user_id = $1", customer.user_id)
    marketing = await choosing.start(customer.user_id, "reader", still=True)
    await choosing.until(marketing, "wait")
    await customer.withdraw(Purpose.DATA_COLLECTION)
    await choosing.notify(marketing, "profile.again")
    await marketing.handle.result()
    seen = (await choosing.context(marketing)).variables
    assert (seen["before"]["demographics"]["country"], seen["after"]["demographics"]["country"]) == ("DE", None)
    service = await choosing.start(customer.user_id, "account_reader")
    await service.handle.result()
    assert (await choosing.context(service)).variables["before"] == seen["after"]
    await choosing.replay(marketing)


async def test_a_journey_of_an_erased_person_reads_nothing_and_fails(
    choosing: Runs, database: Database, customer: Customer
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = $1", customer.user_id
        )
    run = await choosing.start(customer.user_id, "account_reader", stored=False)
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()


async def test_the_earliest_of_the_recorded_events_that_match_ends_the_wait(
    choosing: Runs, customer: Customer, log: EventLog
) -> None:
    instance = await choosing.stored(customer.user_id, "chooser")
    await log.store("billing.paid", ago=timedelta(minutes=9), plan="basic")
    await log.store("billing.cancelled", ago=timedelta(minutes=3))
    paid = await log.store("billing.paid", ago=timedelta(minutes=5), plan="pro")
    await log.store("account.moved", ago=timedelta(minutes=1))
    run = await choosing.begin(instance)
    await run.handle.result()
    context = await choosing.context(run)
    assert context.results["wait_for_the_end"] == {
        "event_type": "billing.paid",
        "event_id": paid.event_id,
        "event_at": paid.timestamp.isoformat(),
        "timed_out": False,
    }
    await choosing.replay(run)


async def test_the_projector_notifies_each_of_the_waits_and_none_once_the_step_has_ended(
    choosing: Runs, customer: Customer, log: EventLog, mail: MailServer
) -> None:
    later: list[int] = []

    async def project(message: object) -> str:
        later.append(await log.project(await log.store("account.moved")))
        return "250 ok"

    mail.answer = project  # the step after the wait
    run = await choosing.start(customer.user_id, "chooser", still=True)
    await choosing.until(run, "wait_for_the_end")
    assert await log.project(await log.store("billing.paid", plan="basic")) == 0
    cancelled = await log.store("billing.cancelled")
    assert await log.project(cancelled) == 1
    async with choosing.database.connection() as connection:
        step = await connection.fetchval("SELECT step FROM temporal_outbox")
    await choosing.notify(run, "billing.cancelled", cancelled.event_id, step=step)
    await run.handle.result()
    assert (await choosing.context(run)).results["wait_for_the_end"]["event_id"] == cancelled.event_id
    assert later == [0]


async def test_a_condition_is_shown_while_the_next_step_is_under_way_and_at_the_end(
    choosing: Runs, customer: Customer, log: EventLog, mail: MailServer
) -> None:
    instance = await choosing.stored(customer.user_id, "chooser")
    await log.store("billing.cancelled")
    during: list[dict[str, Any]] = []

    async def look(message: object) -> str:
        during.append(dict((await choosing.context(run)).results))
        return "250 ok"

    mail.answer = look
    run = choosing.at("chooser", instance.instance_id)
    await choosing.begin(instance)
    await run.handle.result()
    [shown] = during
    assert shown["is_over"] == {"met": True}
    results = (await choosing.context(run)).results
    assert list(results) == ["wait_for_the_end", "is_over", "send_welcome", "is_late"]
    assert results["is_late"] == {"met": False}


async def test_without_an_event_the_wait_for_several_ends_at_its_deadline(
    choosing: Runs, customer: Customer
) -> None:
    run = await choosing.start(customer.user_id, "chooser")
    assert (await run.handle.result()).reason == "nothing"
    assert (await choosing.context(run)).results["is_over"] == {"met": False}
