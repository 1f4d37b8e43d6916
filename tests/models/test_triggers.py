"""Triggers and exits as workflows declare them, and the events that they include."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from models.rules.sharding import BUCKETS, SHARDS, bucket_of, shard_of
from models.rules.triggers import DEFAULT_MAX_AGE, on, properties_match, type_matches, when


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
    declared = when("transaction.refund", reason="returned", same_as_trigger=("order_id",), kind="full")
    assert (declared.event_type, declared.reason, declared.where, declared.same) == (
        "transaction.refund",
        "returned",
        {"kind": "full"},
        ["order_id"],
    )
    assert when("transaction.refund").reason == "transaction.refund"
    assert when("transaction.refund").same == []


def test_a_user_stays_in_the_same_bucket_and_shard() -> None:
    """A change of these moves users to other consumers. Bucket: CRC-32 of the id modulo 256."""
    assert (BUCKETS, SHARDS) == (256, 4)
    buckets = [124, 198, 213]
    assert [bucket_of(each) for each in ("u-1", "u-2", "ü")] == buckets
    assert [shard_of(each) for each in ("u-1", "u-2", "ü")] == [each % 4 for each in buckets]
