"""The test kit does as the platform does."""

from __future__ import annotations

import ast
import inspect
from datetime import UTC, datetime, timedelta

import pytest

from models.vocabulary import InstanceStatus
from testing import events, hooks, mail, people, runs
from testing.events import EventRejectedError
from testing.mail import MailServer
from testing.people import Customer, Customers
from testing.runs import Runs
from tests.support.processes import ROOT

PUBLIC = (
    runs.Runs,
    events.Run,
    events.CustomerEvents,
    mail.MailServer,
    hooks.HookServer,
    people.Customer,
    people.Customers,
)
_OF_THE_SERVERS = ("_", "handle_", "connection_options")


async def test_an_event_starts_an_instance_and_another_ends_it(runs: Runs, customers: Customers) -> None:
    customer = await customers.new("marketing", "data_collection")
    run = await runs.trigger(
        customer.user_id, "cart_recovery", "transaction.cart_add", {"product_id": "p-1"}, still=True
    )
    await runs.until(run, "wait_for_end_of_shopping")
    paid = {"order_id": "o-1", "amount": "19.99", "currency": "EUR"}
    started = await runs.event(customer.user_id, "transaction.purchase_complete", paid)
    assert "post_purchase" in [each.workflow_id for each in started]
    instance = await runs.ended(run)
    assert (instance.status, instance.reason) == (InstanceStatus.COMPLETED, "purchased")


async def test_an_event_needs_the_consent_and_the_properties_of_its_type(runs: Runs, customers: Customers) -> None:
    nobody, customer = await customers.new(), await customers.new("data_collection")
    with pytest.raises(EventRejectedError, match="consent_required"):
        await runs.event(nobody.user_id, "user.login")
    with pytest.raises(EventRejectedError, match="/event_properties"):
        await runs.event(customer.user_id, "transaction.purchase_complete")
    with pytest.raises(AssertionError, match="has not started cart_recovery, but nothing"):
        await runs.trigger(
            customer.user_id, "cart_recovery", "transaction.cart_add"
        )  # without the consent to marketing


@pytest.mark.parametrize("still", [False, True])
async def test_a_virtual_clock_starts_at_the_time_that_the_test_wants(
    runs: Runs, customers: Customers, still: bool
) -> None:
    """A Friday evening, so that the next morning is a Saturday's."""
    customer = await customers.new("data_collection")
    friday = datetime(2030, 3, 29, 20, 30, tzinfo=UTC)
    paid = {"order_id": "o-1", "amount": "19.99", "currency": "EUR"}
    by_trigger = await runs.trigger(
        customer.user_id, "post_purchase", "transaction.purchase_complete", paid, still=still, clock=friday
    )
    by_request = await runs.start(customer.user_id, "post_purchase", still=still, clock=friday)
    for run in (by_trigger, by_request):
        if still:
            await runs.until(run, "wait_before_thanks")
            assert timedelta() <= await runs.time(run) - friday < timedelta(minutes=1)
            await runs.advance(run, timedelta(hours=1, minutes=1))
            await runs.until(run, "wait_for_morning")
            await runs.advance(run, timedelta(hours=11))
            await runs.until(run, "wait_for_delivery")
            await run.handle.terminate()
        results = (await runs.context(run)).results if still else (await runs.ended(run)).results
        assert results["wait_for_morning"]["until"] == "2030-03-30T08:00:00+00:00"
    with pytest.raises(ValueError, match="starts now or later"):
        await runs.start(customer.user_id, clock=datetime(2020, 1, 1, tzinfo=UTC))


async def test_an_event_at_an_instances_time_ends_its_wait(runs: Runs, customers: Customers) -> None:
    customer = await customers.new("data_collection")
    run = await runs.start(customer.user_id, "onboarding", still=True)
    await runs.until(run, "wait_for_first_activity")
    await runs.advance(run, timedelta(days=2))
    await runs.event(customer.user_id, "engagement.page_view", at=await runs.time(run))
    assert (await runs.ended(run)).reason == "activated"


async def test_a_withdrawal_ends_the_instance(runs: Runs, customers: Customers) -> None:
    customer = await customers.new("marketing")
    run = await runs.start(customer.user_id, "win_back", still=True)
    await runs.until(run, "wait_before_whats_new")
    await runs.withdraw(customer.user_id, "marketing")
    assert (await runs.ended(run)).status is InstanceStatus.CANCELLED


async def test_a_dead_letter_is_replayed_from_the_failed_step(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse("550 no such mailbox")
    run = await runs.start(customer.user_id, "onboarding")
    assert (await runs.ended(run)).status is InstanceStatus.FAILED
    mail.accept()
    again = await runs.replay_dead_letter(run)
    assert (await runs.ended(again)).reason == "no_activity"
    assert len(mail.subjects(customer.email)) == 2
    with pytest.raises(AssertionError, match="no open dead letter"):
        await runs.replay_dead_letter(again)


async def test_the_mail_server_refuses_as_often_as_it_was_told(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse(times=2)
    run = await runs.start(customer.user_id, "onboarding")
    attempts = [each for each in (await runs.ended(run)).attempts if each.step == "send_welcome"]
    assert [each.error_type for each in attempts] == ["SMTPDataError", "SMTPDataError", None]


def test_each_public_name_has_an_example_that_is_python() -> None:
    for kind in PUBLIC:
        members = {name: each for name, each in vars(kind).items() if not name.startswith(_OF_THE_SERVERS)}
        for name, member in members.items():
            if callable(member) and not hasattr(member, "__isabstractmethod__"):
                _assert_example(f"{kind.__name__}.{name}", member.__doc__)
        if kind is not events.CustomerEvents:  # Runs has it
            _assert_example(kind.__name__, kind.__doc__)


def _assert_example(name: str, text: str | None) -> None:
    _, found, example = inspect.cleandoc(text or "").partition("Example::")
    assert found, name
    ast.parse(f"async def example():{example}")


def test_the_guide_uses_the_kit_and_nothing_of_the_tests() -> None:
    assert "tests.support" not in (ROOT / "docs" / "writing-a-workflow.md").read_text()
