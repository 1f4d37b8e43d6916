"""Results of the projector in the API, and the events that it has set aside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from tests.support.http import Clients, assert_problem, field_errors
from tests.support.log import NOON, Happening, Log, click, purchase

MINUTE = timedelta(minutes=1)
REFUND = "transaction.refund"


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def test_a_profile_shows_what_is_computed_from_events(api: Clients, log: Log) -> None:
    user = await log.person()
    await log.write(
        Happening(user),
        Happening(user, timestamp=NOON + 10 * MINUTE),
        click(user, "export", session_id="s-2"),
        click(user, "export", session_id="s-2"),
        purchase(user, "29.53", timestamp=NOON + MINUTE),
        purchase(user, 29.53, timestamp=NOON + 2 * MINUTE),
        purchase(user, "1000", "EUR", timestamp=NOON + 3 * MINUTE),
        purchase(user, "0.5", "EUR", event_type=REFUND),
    )
    await log.project()
    profile = (await api.admin.get(f"/users/{user}")).json()
    assert profile["behavior"] == {
        "session_count": 2,
        "last_session_date": "2026-03-14T12:10:00Z",
        "total_session_duration": 600.0,
        "feature_usage_map": {"export": 2},
        "engagement_score": None,
    }
    shown = profile["transactions"]
    assert shown["total_purchases"] == 3
    assert shown["total_revenue"] == "59.06"
    assert shown["average_order_value"] == "29.53"
    assert shown["currency"] == "USD"
    assert shown["revenue_by_currency"] == {"EUR": "999.50", "USD": "59.06"}
    assert shown["last_purchase_date"] == "2026-03-14T12:03:00Z"
    listed = (await api.analyst.get("/users")).json()["data"]
    assert [each["transactions"] for each in listed] == [shown]
    patched = await api.admin.patch(f"/users/{user}", json={"name": "New"})
    assert patched.json()["transactions"] == shown


async def test_a_profile_shows_how_often_a_person_buys_and_the_value_to_expect(api: Clients, log: Log) -> None:
    user, now = await log.person(), datetime.now(UTC)
    # Half an hour beyond a whole hour: the figures don't change while this test runs.
    ago = timedelta(days=60, minutes=30)
    await log.write(purchase(user, "20.00", timestamp=now), purchase(user, "5.00", "EUR", timestamp=now))
    await log.project()
    await log.write(purchase(user, "40.00", timestamp=now - ago), purchase(user, "7", "JPY", event_type=REFUND))
    await log.project()
    profile = (await api.admin.get(f"/users/{user}")).json()
    shown = profile["transactions"]
    assert (shown["currency"], shown["average_order_value"], shown["purchase_frequency"]) == ("USD", "30.00", 1.5)
    assert shown["customer_lifetime_value"] == "1642.50"  # 30.00 · 1.5 · 365 / 30 · 3 years
    assert (await api.analyst.get(f"/users/{user}/export")).json()["profile"]["transactions"] == shown
    totals = (await api.admin.get(f"/users/{user}/export")).json()["purchase_totals"]
    firsts = {each["currency"]: each["first_purchase_date"] for each in totals}
    assert firsts["JPY"] is None
    assert datetime.fromisoformat(firsts["USD"]) == now - ago
    for name in ("customer_lifetime_value", "purchase_frequency"):
        answer = await api.admin.patch(f"/users/{user}", json={"transactions": {name: 1}})
        assert field_errors(answer) == {(f"/transactions/{name}", "read_only")}


async def test_a_profiles_tag_outlives_figures_that_change_with_time(
    api: Clients, log: Log, owner: Connection
) -> None:
    user = await log.person()
    await log.write(purchase(user, "20.00", timestamp=datetime.now(UTC)))
    await log.project()
    before = await api.admin.get(f"/users/{user}")
    await owner.execute("UPDATE purchase_totals SET first_purchase_at = now() - interval '90 days'")
    after = await api.admin.get(f"/users/{user}")
    shown = [Decimal(each.json()["transactions"]["customer_lifetime_value"]) for each in (before, after)]
    assert shown == [730, Decimal("243.33")]
    assert before.headers["etag"] == after.headers["etag"]


async def test_a_profile_without_events_has_the_defaults(api: Clients, log: Log) -> None:
    profile = (await api.admin.get(f"/users/{await log.person()}")).json()
    assert profile["behavior"]["session_count"] == 0
    assert profile["behavior"]["feature_usage_map"] == {}
    assert profile["transactions"]["total_revenue"] == "0.00"
    assert profile["transactions"]["revenue_by_currency"] == {}
    assert profile["transactions"]["currency"] is None
    assert profile["transactions"]["purchase_frequency"] is None
    assert profile["transactions"]["customer_lifetime_value"] is None


async def test_a_profiles_tag_changes_with_its_events(api: Clients, log: Log) -> None:
    user = await log.person()
    tag = (await api.admin.get(f"/users/{user}")).headers["etag"]
    masked = (await api.analyst.get(f"/users/{user}")).headers["etag"]
    await log.write(purchase(user, "1"))
    await log.project()
    for client, known in ((api.admin, tag), (api.analyst, masked)):
        answer = await client.get(f"/users/{user}", headers={"If-None-Match": known})
        assert answer.status_code == 200
        again = await client.get(f"/users/{user}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    stale = await api.admin.patch(f"/users/{user}", json={"name": "New"}, headers={"If-Match": tag})
    assert_problem(stale, 412, "precondition_failed")


async def test_events_do_not_change_an_integrators_tag(api: Clients, log: Log) -> None:
    user = await log.person()
    tag = (await api.integrator.patch(f"/users/{user}", json={"name": "New"})).headers["etag"]
    await log.write(purchase(user, "1"))
    await log.project()
    answer = await api.integrator.patch(f"/users/{user}", json={"name": "Newer"}, headers={"If-Match": tag})
    assert answer.status_code == 200
    assert "1" not in str(answer.json().get("transactions"))


async def test_transactions_are_listed_newest_first_with_their_events(api: Clients, log: Log) -> None:
    user, other = await log.person(), await log.person()
    happenings = [purchase(user, "1.5", timestamp=NOON + number * MINUTE) for number in range(5)]
    refund = purchase(user, "0.50", event_type=REFUND, timestamp=NOON + 9 * MINUTE)
    await log.write(*happenings, refund, purchase(other, "7"))
    await log.project()
    listed: list[dict[str, Any]] = []
    cursor = None
    while cursor or not listed:
        page = await api.analyst.get(
            f"/users/{user}/transactions", params={"limit": 4} | ({"cursor": cursor} if cursor else {})
        )
        listed += page.json()["data"]
        cursor = page.json()["pagination"]["next_cursor"]
    assert [each["event_id"] for each in listed] == [each.event_id for each in (refund, *reversed(happenings))]
    assert listed[0] == {
        "event_id": refund.event_id,
        "kind": "refund",
        "order_id": "o-1",
        "amount": "0.50",
        "currency": "USD",
        "occurred_at": "2026-03-14T12:09:00Z",
    }
    assert_problem(await api.analyst.get("/users/nobody/transactions"), 404, "user_not_found")
    assert_problem(await api.integrator.get(f"/users/{user}/transactions"), 403, "forbidden")
    head = await api.analyst.head(f"/users/{user}/transactions")
    assert (head.status_code, head.content) == (200, b"")
    for wanted in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}):
        answer = await api.analyst.get(f"/users/{user}/transactions", params=wanted)
        assert {pointer for pointer, _ in field_errors(answer)} == {f"/query/{name}" for name in wanted}
    async with log.database.connection() as connection:
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", user)
    assert_problem(await api.analyst.get(f"/users/{user}/transactions"), 410, "user_erased")


async def set_aside(api: Clients, log: Log, user: str) -> dict[str, Any]:
    """An event in the list that was set aside because the data key of its user doesn't decrypt it."""
    await log.write(purchase(user, "10", event_id="poison"), raw=b"\x01 does not open at all, by no key")
    await log.write(purchase(user, "1"))
    await log.project()
    (shown,) = (await api.admin.get("/poison-events", params={"status": "open"})).json()["data"]
    assert (shown["event_id"], shown["user_id"], shown["consumer"]) == ("poison", user, "projector")
    assert (shown["tries"], shown["error_type"]) == (3, "DecryptionError")
    return dict(shown)


async def mend(log: Log, user: str) -> None:
    """Write a valid body into the event."""
    async with log.database.connection() as connection:
        await connection.execute("DELETE FROM events WHERE event_id = 'poison'")
    await log.write(purchase(user, "10", event_id="poison"))
    async with log.database.connection() as connection:
        await connection.execute(
            """UPDATE log_cursors c SET generation = e.generation, xid = e.xid, sequence = e.sequence
               FROM events e WHERE e.event_id = 'poison' AND c.shard = e.shard"""
        )


async def test_a_poison_event_is_replayed_once(api: Clients, log: Log) -> None:
    user = await log.person()
    shown = await set_aside(api, log, user)
    path = f"/poison-events/{shown['poison_id']}"
    assert_problem(await api.admin.post(f"{path}/replay"), 409, "still_unusable")
    assert (await api.admin.get("/poison-events", params={"status": "open"})).json()["data"] == [shown]
    await mend(log, user)
    replayed = await api.admin.post(f"{path}/replay")
    assert replayed.status_code == 200
    assert replayed.json() == shown | {"status": "replayed"}
    for command in ("replay", "discard"):
        assert_problem(await api.admin.post(f"{path}/{command}"), 409, "already_settled")
    await log.project()
    assert (await log.activity(user)).totals[0].revenue == 11
    assert (await api.admin.get("/poison-events", params={"status": "open"})).json()["data"] == []


async def test_a_poison_event_can_be_discarded(api: Clients, log: Log) -> None:
    user = await log.person()
    path = f"/poison-events/{(await set_aside(api, log, user))['poison_id']}"
    assert (await api.admin.post(f"{path}/discard")).json()["status"] == "discarded"
    assert_problem(await api.admin.post(f"{path}/replay"), 409, "already_settled")
    assert (await log.activity(user)).total_purchases == 1


async def test_a_deleted_event_can_not_be_replayed(api: Clients, log: Log) -> None:
    user = await log.person()
    path = f"/poison-events/{(await set_aside(api, log, user))['poison_id']}"
    async with log.database.connection() as connection:
        await connection.execute("DELETE FROM events WHERE event_id = 'poison'")
    assert_problem(await api.admin.post(f"{path}/replay"), 409, "event_gone")
    async with log.database.connection() as connection:
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", user)
    assert_problem(await api.admin.post(f"{path}/replay"), 410, "user_erased")


async def test_only_admins_manage_poison_events(api: Clients, log: Log) -> None:
    shown = await set_aside(api, log, await log.person())
    for role in (Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR):
        client = api.of(role)
        assert_problem(await client.get("/poison-events"), 403, "forbidden")
        for command in ("replay", "discard"):
            answer = await client.post(f"/poison-events/{shown['poison_id']}/{command}")
            assert_problem(answer, 403, "forbidden")
    assert_problem(await api.admin.post("/poison-events/unknown/replay"), 404, "poison_event_not_found")
    assert_problem(await api.admin.post("/poison-events/unknown/discard"), 404, "poison_event_not_found")
