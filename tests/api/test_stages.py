"""Changes of the lifecycle stage by callers are events, in the transactions of the changes."""

from __future__ import annotations

import json

import pytest

from store.connection import Connection
from tests.support.builders import user
from tests.support.events import add_user
from tests.support.http import Clients


async def changes(owner: Connection, user_id: str = "u-1") -> list[str]:
    rows = await owner.fetch(
        """SELECT dimensions, session_id, historical FROM events
            WHERE user_id = $1 AND event_type = 'lifecycle.stage_changed' ORDER BY timestamp""",
        user_id,
    )
    assert all((row["session_id"], row["historical"]) == ("workflow:lifecycle", False) for row in rows)
    return ["{from} > {to} ({cause})".format(**json.loads(row["dimensions"])) for row in rows]


async def test_a_change_of_the_stage_is_an_event_and_a_creation_is_none(api: Clients, owner: Connection) -> None:
    await add_user(api.integrator)
    assert await changes(owner) == []
    for stage in ("active", "active", "dormant"):
        answer = await api.integrator.patch("/users/u-1", json={"lifecycle_stage": stage, "name": "Ada"})
        assert answer.status_code == 200
    batch = [user("u-2"), {"user_id": "u-1", "lifecycle_stage": "churned"}, {"user_id": "u-1", "name": "Ada B"}]
    answer = await api.integrator.post("/users/batch", json={"users": batch})
    assert (answer.json()["created"], answer.json()["updated"]) == (1, 2)
    assert await changes(owner) == [
        "onboarding > active (caller)",
        "active > dormant (caller)",
        "dormant > churned (caller)",
    ]
    assert await changes(owner, "u-2") == []


@pytest.mark.parametrize("consents", [None, {"data_collection": False}])
async def test_without_consent_the_stage_changes_and_no_event_is_stored(
    api: Clients, owner: Connection, consents: dict[str, bool] | None
) -> None:
    """Also in the request that withdraws it."""
    if consents:
        await add_user(api.integrator)
    else:
        await api.integrator.post("/users", json=user())
    sent = {"lifecycle_stage": "active", **({"consents": consents} if consents else {})}
    assert (await api.admin.patch("/users/u-1", json=sent)).json()["lifecycle_stage"] == "active"
    assert await changes(owner) == []


async def test_a_change_of_the_stage_holds_from_its_time_on(api: Clients, owner: Connection) -> None:
    await add_user(api.integrator)
    held = "SELECT lifecycle_stage_changed_at FROM users WHERE user_id = 'u-1'"
    created = await owner.fetchval(held)
    await api.integrator.patch("/users/u-1", json={"name": "Ada B"})
    assert await owner.fetchval(held) == created
    await api.integrator.patch("/users/u-1", json={"lifecycle_stage": "active"})
    assert await owner.fetchval(held) > created


async def test_no_basis_beside_consent_can_be_declared_for_it(api: Clients) -> None:
    body = {"basis": "contract", "basis_reason": "We want to know."}
    answer = await api.admin.put("/events/types/lifecycle.stage_changed", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "read_only")
