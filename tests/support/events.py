"""Events as callers send them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.support.builders import user
from tests.support.http import Clients


def moment(**ago: float) -> str:
    """A time in the past in the API's format; with negative values in the future."""
    return (datetime.now(UTC) - timedelta(**ago)).isoformat().replace("+00:00", "Z")


def event(event_id: str | None = None, user_id: str = "u-1", **changes: Any) -> dict[str, Any]:
    """A document for `POST /events`; ``changes`` add to it and replace."""
    return {
        "event_id": event_id or uuid.uuid4().hex,
        "user_id": user_id,
        "event_type": "lesson.finish",
        "timestamp": moment(minutes=1),
        "session_id": "s-1",
        **changes,
    }


def purchase(event_id: str | None = None, user_id: str = "u-1", **properties: Any) -> dict[str, Any]:
    """A purchase of 19.99 USD; ``properties`` add to it and replace."""
    paid = {"order_id": "o-1", "amount": "19.99", "currency": "USD", **properties}
    return event(event_id, user_id, event_type="transaction.purchase_complete", event_properties=paid)


async def add_user(client: httpx.AsyncClient, user_id: str = "u-1", **changes: Any) -> None:
    """Create a user who has consented to the collection of data."""
    document = user(user_id, consents={"data_collection": True}, **changes)
    answer = await client.post("/users", json=document)
    assert answer.status_code == 201, answer.text


async def add_users(client: httpx.AsyncClient, user_ids: list[str]) -> None:
    """Create users who have consented to the collection of data."""
    for start in range(0, len(user_ids), 1000):
        part = [user(each, consents={"data_collection": True}) for each in user_ids[start : start + 1000]]
        answer = await client.post("/users/batch", json={"users": part})
        assert answer.json()["created"] == len(part), answer.text


async def batch(api: Clients, *events: Any, **more: Any) -> dict[str, Any]:
    """Send a batch with at least one accepted event; returns the answer."""
    answer = await api.integrator.post("/events/batch", json={"events": list(events), **more})
    assert answer.status_code == 202, answer.text
    document: dict[str, Any] = answer.json()
    assert [result["index"] for result in document["results"]] == list(range(len(events)))
    return document


def statuses(answer: dict[str, Any]) -> list[str]:
    """The status of each event of a batch."""
    return [result["status"] for result in answer["results"]]


def codes(answer: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """The (pointer, code) pairs of each event of a batch."""
    return [[(error["pointer"], error["code"]) for error in each["errors"]] for each in answer["results"]]
