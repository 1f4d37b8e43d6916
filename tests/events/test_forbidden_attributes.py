"""An attribute that a person has opted out of is stored nowhere, and is removed when it becomes forbidden."""

from __future__ import annotations

from typing import Any

import pytest

from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from testing.events import project
from tests.support.builders import user
from tests.support.events import batch, event, moment
from tests.support.http import Clients
from tests.support.redactions import redact_all

CITY, GENDER = "Atlantis", "nonbinary"
TYPE = "shop.visit"
DEMOGRAPHICS = {"city": CITY, "gender": GENDER}
FORBIDDEN = {"city": False, "gender": False}


async def bring(api: Clients, user_id: str) -> None:
    """Send the attributes by each route that takes them."""
    patch = {"demographics": DEMOGRAPHICS}
    assert (await api.integrator.patch(f"/users/{user_id}", json=patch)).status_code == 200
    upserted = await api.integrator.post("/users/batch", json={"users": [{"user_id": user_id, **patch}]})
    assert upserted.json()["updated"] == 1
    place: dict[str, Any] = {"location": {"city": CITY}, "device_info": {"userCity": CITY}}
    await batch(
        api,
        event(user_id=user_id, event_type=TYPE, event_properties={**DEMOGRAPHICS, "plan": "pro"}, **place),
        event(
            user_id=user_id,
            event_type="user.profile_update",
            timestamp=moment(seconds=1),
            event_properties={"fields": ["city"], "changes": patch},
        ),
    )


async def held(api: Clients, owner: Connection, user_id: str) -> dict[str, Any]:
    """Where the values are: in the profile, its row, events, their dimensions, or elsewhere in the export."""
    export = (await api.admin.get(f"/users/{user_id}/export")).json()
    row = await owner.fetchrow("SELECT city, gender FROM users WHERE user_id = $1", user_id)
    dimensions = await owner.fetch("SELECT dimensions::text FROM events WHERE user_id = $1", user_id)
    assert row is not None
    places = {
        "profile": export.pop("profile"),
        "events": export.pop("events"),
        "dimensions": [each[0] for each in dimensions],
        "export": export,
    }
    found = {name: CITY in str(place) or GENDER in str(place) for name, place in places.items()}
    return {**found, "row": any(row)}


@pytest.fixture
async def typed(api: Clients) -> None:
    declared = {"schema": {"type": "object"}, "pii": [], "dimensions": ["gender", "plan"]}
    assert (await api.admin.put(f"/events/types/{TYPE}", json=declared)).status_code == 201


@pytest.mark.usefixtures("typed")
async def test_a_forbidden_attribute_is_stored_nowhere_and_removed_when_it_becomes_forbidden(
    api: Clients, database: Database, cipher: Cipher, owner: Connection
) -> None:
    consents = {"data_collection": True}
    created = await api.integrator.post(
        "/users",
        json=user("u-1", demographics=DEMOGRAPHICS, privacy_preferences=FORBIDDEN, consents=consents),
    )
    assert created.status_code == 201
    assert (await api.integrator.post("/users", json=user("u-2", consents=consents))).status_code == 201
    for user_id in ("u-1", "u-2"):
        await bring(api, user_id)
        await project(database, cipher, (), user_id)
    nowhere = dict.fromkeys(("profile", "events", "dimensions", "export", "row"), False)
    everywhere = dict.fromkeys(nowhere, True) | {"export": False}
    assert await held(api, owner, "u-1") == nowhere
    assert await held(api, owner, "u-2") == everywhere

    change = {"changes": {"privacy_preferences": FORBIDDEN}}
    await batch(api, event(user_id="u-2", event_type="user.profile_update", event_properties=change))
    await project(database, cipher, (), "u-2")
    await redact_all(database, cipher)
    assert await held(api, owner, "u-2") == nowhere
