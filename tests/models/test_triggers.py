"""Triggers and exits as workflows declare them, and the events that they include."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from models.errors import ParameterMissingError
from models.rules.durations import Duration, days
from models.rules.parameters import from_trigger, parameters_from, taken_from_trigger
from models.rules.sharding import BUCKETS, SHARDS, bucket_of, shard_of
from models.rules.triggers import (
    DEFAULT_MAX_AGE,
    ParameterReference,
    on,
    parameter,
    properties_match,
    resolved,
    type_matches,
    when,
)


@pytest.mark.parametrize(
    ("pattern", "event_type", "matches"),
    [
        ("*", "engagement.share", True),
        ("engagement.share", "engagement.share", True),
        ("engagement.share", "engagement.shares", False),
        ("engagement.*", "engagement.share", True),
        ("engagement.*", "engagements.x", False),
        ("engagement.*", "engagement", False),
        ("engagement.*", "transaction.engagement.x", False),
        ("engagement", "engagement.share", False),
        ("engagement.s", "engagement.share", False),
        ("engagement.share", "*", False),
    ],
)
def test_a_pattern_includes_a_type_a_category_or_everything(pattern: str, event_type: str, matches: bool) -> None:
    assert type_matches(pattern, event_type) is matches


@pytest.mark.parametrize(
    ("where", "properties", "matches"),
    [
        ({}, {}, True),
        (None, {"plan": "pro"}, True),
        ({"plan": "pro"}, {"plan": "pro", "seats": 3}, True),
        ({"plan": "pro"}, {"plan": "free"}, False),
        ({"plan": "pro", "seats": 3}, {"plan": "pro"}, False),
        ({"plan": "pro", "seats": 3}, {"plan": "pro", "seats": 4}, False),
        ({"plan": None}, {}, False),
        ({"plan": None}, {"plan": None}, True),
        ({"plan": "pro"}, None, False),
        ({"invoice_id": 100}, {"invoice_id": "100"}, True),
        ({"invoice_id": "100"}, {"invoice_id": 100}, True),
        ({"invoice_id": "0100"}, {"invoice_id": 100}, False),
        ({"invoice_id": "True"}, {"invoice_id": True}, False),
    ],
)
def test_every_required_property_must_be_there(where: Any, properties: Any, matches: bool) -> None:
    assert properties_match(where, properties) is matches


def test_a_declared_trigger_holds_what_was_declared() -> None:
    trigger = on("transaction.cart_add", max_age=timedelta(days=1), plan="pro")
    assert (trigger.event_type, trigger.max_age, trigger.where) == (
        "transaction.cart_add",
        timedelta(days=1),
        {"plan": "pro"},
    )
    assert on("user.signup").max_age == DEFAULT_MAX_AGE == timedelta(hours=1)


def test_a_declared_exit_holds_what_was_declared() -> None:
    declared = when("transaction.refund", reason="returned", order_id=parameter("order"), kind="full")
    assert (declared.event_type, declared.reason, declared.where, declared.compared) == (
        "transaction.refund",
        "returned",
        {"kind": "full"},
        {"order_id": ParameterReference("order")},
    )
    assert when("transaction.refund").reason == "transaction.refund"
    with pytest.raises(TypeError, match="no parameters yet"):
        on("transaction.refund", order_id=parameter("order"))


def test_an_exit_of_an_instance_compares_with_the_values_of_its_parameters() -> None:
    exits = [
        when("billing.paid", reason="paid", invoice=parameter("invoice"), currency="EUR"),
        when("billing.dropped", invoice=parameter("other", optional=True)),
    ]
    [paid] = resolved(exits, {"invoice": 7, "other": None})
    assert (paid.reason, paid.where) == ("paid", {"invoice": 7, "currency": "EUR"})
    assert [each.where for each in resolved(exits, {"invoice": "", "other": 0})][1] == {"invoice": 0}
    for parameters in ({"other": 1}, {"invoice": None}):
        with pytest.raises(ParameterMissingError) as raised:
            resolved(exits, parameters)
        assert [each.pointer for each in raised.value.errors] == ["/parameters/invoice"]


class Billed(BaseModel):
    """Parameters that an event fills."""

    invoice: str | int | None = from_trigger("invoice_id")
    retries: int = from_trigger("retries", default=3)
    wait: Duration = days(1)


@pytest.mark.parametrize(
    ("properties", "taken"),
    [
        ({"invoice_id": "in-1", "retries": 5, "wait": "P9D"}, {"invoice": "in-1", "retries": 5}),
        ({"invoice_id": 17}, {"invoice": 17, "retries": 3}),
        ({"invoice_id": {"id": "in-1"}}, {"invoice": None, "retries": 3}),
        ({}, {"invoice": None, "retries": 3}),
    ],
)
def test_parameters_take_the_values_of_an_event_if_they_fit(
    properties: dict[str, Any], taken: dict[str, Any]
) -> None:
    assert taken_from_trigger(Billed) == {"invoice": "invoice_id", "retries": "retries"}
    assert parameters_from(Billed, properties) == {**taken, "wait": "P1D"}


def test_a_value_that_does_not_fit_a_parameter_which_may_not_be_null_starts_nothing() -> None:
    """A text of digits isn't converted: no later event's number would equal it, or the other way round."""
    for value in ("5", None, [5]):
        with pytest.raises(ParameterMissingError) as raised:
            parameters_from(Billed, {"retries": value})
        assert [each.pointer for each in raised.value.errors] == ["/parameters/retries"]


def test_a_user_stays_in_the_same_bucket_and_shard() -> None:
    """A change of these moves users to other consumers. Bucket: CRC-32 of the id modulo 256."""
    assert (BUCKETS, SHARDS) == (256, 4)
    buckets = [124, 198, 213]
    assert [bucket_of(each) for each in ("u-1", "u-2", "ü")] == buckets
    assert [shard_of(each) for each in ("u-1", "u-2", "ü")] == [each % 4 for each in buckets]
