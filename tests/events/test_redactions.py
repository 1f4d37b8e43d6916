"""A redaction removes an attribute from stored events, removes nothing else, and counts each event once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from activities.redaction import Redactions
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.events import redactions
from store.events.redactions import EventsLockedError, StaleRedactionError
from tests.support.events import add_user, batch, event, moment
from tests.support.http import Clients
from tests.support.redactions import due, redact_all, redact_page

PLACE = {"country": "DE", "City": "Berlin", "geo": {"Latitude": 52.5}, "timezone": "Europe/Berlin"}
DEVICE = {"deviceType": "tv", "device_type": "mobile", "os": "iOS", "userLanguage": "de"}
PROPERTIES = {"gender": "f", "city": "x", "plan": "pro", "to": [{"country": "DE"}], "zip": "10117"}
ATTRIBUTES = ["age", "date_of_birth", "gender", "country", "city", "timezone", "language", "device_type"]


async def opt_out(api: Clients, *names: str, user_id: str = "u-1") -> None:
    await prefer(api, dict.fromkeys(names, False), user_id)


async def prefer(api: Clients, preferences: dict[str, bool | None], user_id: str = "u-1") -> None:
    answer = await api.integrator.patch(f"/users/{user_id}", json={"privacy_preferences": preferences})
    assert answer.status_code == 200, answer.text


async def shown(api: Clients, user_id: str = "u-1") -> list[dict[str, Any]]:
    """The person's events, the newest first, without ids and times."""
    answer = await api.admin.get(f"/users/{user_id}/events", params={"limit": 1000})
    assert answer.status_code == 200, answer.text
    own = ("event_id", "user_id", "received_at", "timestamp")
    return [{name: each[name] for name in each if name not in own} for each in answer.json()["data"]]


async def located(api: Clients, number: int, **location: Any) -> None:
    """Send events with a location, two for each day."""
    location = location or {"city": "Berlin", "country": "DE"}
    events = [
        event(f"e-{place:03}", timestamp=moment(days=40 - place // 2), location=location)
        for place in range(number)
    ]
    await batch(api, *events)


async def locations(api: Clients) -> list[dict[str, Any]]:
    """The locations of the person's events, the oldest first."""
    return [each["location"] for each in reversed(await shown(api))]


async def dimensions(owner: Connection, user_id: str = "u-1") -> list[Any]:
    rows = await owner.fetch(
        "SELECT dimensions::text FROM events WHERE user_id = $1 ORDER BY timestamp, event_id", user_id
    )
    return [row[0] for row in rows]


async def audited(owner: Connection) -> list[tuple[str, list[str], str]]:
    rows = await owner.fetch(
        "SELECT user_id, fields, details->>'events' FROM audit_log WHERE actor = 'system:redaction' ORDER BY xid"
    )
    return [tuple(row) for row in rows]


@pytest.fixture
async def clean(api: Clients, owner: Connection) -> None:
    """Delete the audit rows of other tests; no fixture truncates the append-only log."""
    await owner.execute("DELETE FROM audit_log")


@pytest.mark.parametrize("attributes", [*([each] for each in ATTRIBUTES), ATTRIBUTES])
async def test_an_opt_out_after_the_events_leaves_what_one_before_them_lets_ingest_store(
    api: Clients, database: Database, owner: Connection, cipher: Cipher, attributes: list[str]
) -> None:
    declared = {"schema": {"type": "object"}, "pii": [], "dimensions": ["gender", "plan", "city"]}
    await api.admin.put("/events/types/shop.visit", json=declared)
    await add_user(api.admin)
    await add_user(api.admin, "u-2", privacy_preferences=dict.fromkeys(attributes, False))
    for user_id in ("u-1", "u-2"):
        whole: dict[str, Any] = {
            "event_properties": PROPERTIES,
            "location": PLACE,
            "device_info": DEVICE,
            "referrer": "https://x.example",
        }
        await batch(
            api,
            event(user_id=user_id, event_type="shop.visit", timestamp=moment(days=2), **whole),
            event(user_id=user_id, timestamp=moment(days=3), location={"country": "FR"}),
            event(user_id=user_id, timestamp=moment(days=4)),
        )
    await opt_out(api, *attributes)
    await redact_all(database, cipher)
    assert await shown(api) == await shown(api, "u-2")
    assert await dimensions(owner) == await dimensions(owner, "u-2")


async def test_a_dimension_is_judged_by_its_name_though_its_type_declares_others_by_now(
    api: Clients, database: Database, owner: Connection, cipher: Cipher
) -> None:
    declared = {"schema": {"type": "object"}, "pii": [], "dimensions": ["gender", "plan"]}
    await api.admin.put("/events/types/shop.visit", json=declared)
    await add_user(api.admin)
    await batch(api, event(event_type="shop.visit", event_properties={"gender": "f", "plan": "pro", "size": "L"}))
    await api.admin.put("/events/types/shop.visit", json={**declared, "dimensions": ["size"]})
    await opt_out(api, "gender")
    await redact_all(database, cipher)
    assert await dimensions(owner) == ['{"plan": "pro"}']
    assert (await shown(api))[0]["event_properties"] == {"plan": "pro", "size": "L"}


async def test_only_changed_events_are_written_and_their_place_in_the_log_stays(
    api: Clients, database: Database, owner: Connection, cipher: Cipher
) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-2")
    berlin: dict[str, Any] = {"location": {"city": "Berlin"}}
    await batch(
        api, event("e-1", **berlin), event("e-2", location={"country": "DE"}), event("e-3", "u-2", **berlin)
    )
    everything = "SELECT *, ctid::text AS place FROM events ORDER BY event_id"
    before = await owner.fetch(everything)
    await opt_out(api, "city")
    await redact_all(database, cipher)
    after = await owner.fetch(everything)
    assert after[1:] == before[1:]
    was, now = dict(before[0]), dict(after[0])
    assert [name for name in was if was[name] != now[name]] == ["body", "place"]


@pytest.mark.parametrize(("page", "size"), [(3, 1_000_000), (1000, 200)])
async def test_a_redaction_processes_all_partitions_page_by_page(
    api: Clients,
    database: Database,
    owner: Connection,
    cipher: Cipher,
    clean: None,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
    size: int,
) -> None:
    monkeypatch.setattr(redactions, "PAGE", page)
    monkeypatch.setattr(redactions, "BYTES", size)
    await add_user(api.admin)
    await located(api, 60)
    await opt_out(api, "city")
    assert await redact_all(database, cipher) > 10
    assert await locations(api) == [{"country": "DE"}] * 60
    assert await audited(owner) == [("u-1", ["city"], "60")]
    assert await owner.fetchval("SELECT count(DISTINCT tableoid) FROM events") > 1


async def test_an_attribute_that_is_allowed_again_meanwhile_stays_in_the_other_events(
    api: Clients, database: Database, cipher: Cipher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redactions, "PAGE", 2)
    await add_user(api.admin)
    await located(api, 6)
    await opt_out(api, "city", "country")
    [pending] = await due(database)
    await redact_page(database, cipher, pending)
    await prefer(api, {"city": None})
    await batch(api, event("e-new", location={"city": "Rome", "country": "IT"}))
    await redact_all(database, cipher)
    assert await locations(api) == [{}, {}] + [{"city": "Berlin"}] * 4 + [{"city": "Rome"}]


async def test_an_opt_out_during_a_redaction_restarts_it_and_makes_earlier_tokens_stale(
    api: Clients, database: Database, cipher: Cipher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redactions, "PAGE", 4)
    await add_user(api.admin)
    await located(api, 6)
    await opt_out(api, "city")
    [first] = await due(database)
    await redact_page(database, cipher, first)
    [second] = await due(database)
    await opt_out(api, "country")
    for stale in (first, second):
        with pytest.raises(StaleRedactionError):
            await redact_page(database, cipher, stale)
    assert [(each.after_timestamp, each.after_event_id) for each in await due(database)] == [(None, None)]
    await redact_all(database, cipher)
    assert await locations(api) == [{}] * 6
    await located(api, 1)
    await prefer(api, {"country": None})
    await opt_out(api, "country")
    with pytest.raises(StaleRedactionError):
        await redact_page(database, cipher, second)
    assert len(await due(database)) == 1


async def test_a_preference_that_becomes_false_requests_a_redaction(
    api: Clients, database: Database, cipher: Cipher
) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-2", privacy_preferences={"city": False})
    await prefer(api, {"city": True})
    await prefer(api, {"city": False}, "u-2")
    await api.integrator.patch("/users/u-1", json={"consents": {"data_collection": False}})
    assert await due(database) == []
    changes = [{"user_id": each, "privacy_preferences": {"city": False, "age": False}} for each in ("u-1", "u-2")]
    answer = (await api.integrator.post("/users/batch", json={"users": changes})).json()
    assert answer["updated"] == 2, answer
    assert {each.user_id for each in await due(database)} == {"u-1", "u-2"}


async def test_a_redaction_of_an_erased_person_or_without_an_opt_out_ends_without_a_change(
    api: Clients, database: Database, owner: Connection, cipher: Cipher, clean: None
) -> None:
    for user_id in ("u-1", "u-2"):
        await add_user(api.admin, user_id)
        await batch(api, event(user_id=user_id, location={"city": "Berlin"}))
        await opt_out(api, "city", user_id=user_id)
    await prefer(api, {"city": True})
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-2'")
    before = await owner.fetch("SELECT * FROM events ORDER BY event_id")
    await redact_all(database, cipher)
    assert await owner.fetchval("SELECT count(*) FROM redactions") == 0
    assert await owner.fetch("SELECT * FROM events ORDER BY event_id") == before
    assert await audited(owner) == []


async def test_a_page_does_not_wait_for_events_that_are_being_deleted_and_is_read_again(
    api: Clients, database: Database, owner: Connection, cipher: Cipher, clean: None
) -> None:
    await add_user(api.admin)
    await located(api, 4)
    await opt_out(api, "city")
    [pending] = await due(database)
    for deletes in (False, True):
        deletion = owner.transaction()
        await deletion.start()
        await owner.execute("DELETE FROM events WHERE event_id = 'e-001'")
        with pytest.raises(EventsLockedError):
            await redact_page(database, cipher, pending)
        await (deletion.commit if deletes else deletion.rollback)()
        assert await due(database) == [pending]
        assert (await locations(api))[0] == {"city": "Berlin", "country": "DE"}
    await redact_all(database, cipher)
    assert await locations(api) == [{"country": "DE"}] * 3
    assert await audited(owner) == [("u-1", ["city"], "3")]


async def test_a_body_that_cannot_be_decrypted_stays_and_its_dimensions_are_redacted(
    api: Clients, database: Database, owner: Connection, cipher: Cipher
) -> None:
    await add_user(api.admin)
    await located(api, 2)
    await owner.execute("UPDATE events SET body = '\\x0102' WHERE event_id = 'e-000'")
    await opt_out(api, "country")
    await redact_all(database, cipher)
    assert await dimensions(owner) == [None, None]
    assert await owner.fetchval("SELECT body FROM events WHERE event_id = 'e-000'") == b"\x01\x02"
    assert await due(database) == []


async def test_two_workers_share_the_pages_and_count_each_event_once(
    api: Clients,
    database: Database,
    owner: Connection,
    cipher: Cipher,
    clean: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redactions, "PAGE", 2)
    await add_user(api.admin)
    await add_user(api.admin, "u-2")
    await located(api, 60)
    await batch(api, event(user_id="u-2", location={"city": "Rome"}))
    await opt_out(api, "city")
    await opt_out(api, "city", user_id="u-2")
    over = asyncio.Event()
    async with asyncio.TaskGroup() as workers:
        for _ in range(2):
            workers.create_task(Redactions(database, cipher).apply_while(lambda: not over.is_set()))
        async with asyncio.timeout(60):
            while await owner.fetchval("SELECT count(*) FROM redactions"):
                await asyncio.sleep(0.02)
        over.set()
    assert await locations(api) == [{"country": "DE"}] * 60
    assert sorted(await audited(owner)) == [("u-1", ["city"], "60"), ("u-2", ["city"], "1")]


async def test_a_redaction_that_fails_delays_no_other_and_is_tried_again(
    api: Clients, database: Database, owner: Connection, cipher: Cipher
) -> None:
    for user_id in ("u-1", "u-2"):
        await add_user(api.admin, user_id)
        await batch(api, event(user_id=user_id, location={"city": "Berlin"}))
        await opt_out(api, "city", user_id=user_id)
    kept = await owner.fetchval("SELECT wrapped FROM data_keys WHERE subject = 'u-1'")
    await owner.execute("UPDATE data_keys SET wrapped = '\\x010178' || wrapped WHERE subject = 'u-1'")
    over = asyncio.Event()
    async with asyncio.TaskGroup() as workers:
        workers.create_task(Redactions(database, cipher).apply_while(lambda: not over.is_set()))
        async with asyncio.timeout(60):
            while await owner.fetchval("SELECT count(*) FROM redactions WHERE due_at <= clock_timestamp()"):
                await asyncio.sleep(0.02)
        over.set()
    assert await owner.fetchval("SELECT array_agg(user_id) FROM redactions") == ["u-1"]
    assert (await shown(api, "u-2"))[0]["location"] == {}
    await owner.execute("UPDATE data_keys SET wrapped = $1 WHERE subject = 'u-1'", kept)
    await owner.execute("UPDATE redactions SET due_at = now()")
    await redact_all(database, cipher)
    assert await locations(api) == [{}]
