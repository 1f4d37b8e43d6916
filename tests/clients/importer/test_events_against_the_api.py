"""Profiles and events through the real API into Postgres, then through the projector's code."""

from __future__ import annotations

import csv
import random
import shutil
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from activities.projector import Follower, Found
from models.rules.sharding import SHARDS
from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from tests.clients.importer.conftest import EXAMPLES, SAMPLE, Imports
from tests.clients.importer.test_events import numbers
from tests.support.http import bearer, new_key

Facts = dict[str, object]
LAST_DAY = date(1998, 6, 30)
"""Of the CDNOW sample."""


@pytest.fixture
async def admin(api_url: str, database: Database) -> str:
    """An admin's key."""
    return await new_key(database, Role.ADMIN)


@pytest.fixture
async def imports(api_url: str, admin: str) -> Imports:
    """Imports with an admin's key, into an empty database."""
    return Imports(api_url, admin)


async def folded(database: Database, cipher: Cipher) -> None:
    """Run the projector's code over the whole log."""
    for shard in range(SHARDS):
        follower = Follower(database, cipher, (), shard)
        while (found := await follower.step()) is not Found.NOTHING:
            assert found is not None


async def keep_events(api_url: str, admin: str, days: int) -> None:
    async with httpx.AsyncClient(base_url=api_url, headers=bearer(admin), trust_env=False) as client:
        answer = await client.put("/retention/events", json={"days": days})
    assert answer.status_code == 200, answer.text


async def facts(database: Database) -> list[tuple[object, ...]]:
    """All rows that an import of events and consents writes, except cursors, and counts and times of writes."""
    async with database.connection() as connection:
        return [
            tuple(row)
            for table, order in (
                ("events", "event_id"),
                ("consents", "user_id"),
                ("consent_history", "record_id"),
                ("users", "user_id"),
                ("purchase_totals", "user_id"),
                ("sessions", "user_id, session_id"),
                ("user_activity", "user_id"),
                ("transactions", "event_id"),
            )
            for row in await connection.fetch(
                f"SELECT to_jsonb({table}) - '{{writes,attribute_times}}'::text[] FROM {table} ORDER BY {order}"
            )
        ]


async def transactions_of_all(api_url: str, admin: str) -> dict[str, Facts]:
    """`transactions` of every profile, as the API lists them."""
    found: dict[str, Facts] = {}
    cursor: str | None = None
    async with httpx.AsyncClient(base_url=api_url, headers=bearer(admin), trust_env=False) as client:
        while True:
            page = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
            answer = (await client.get("/users", params=page)).raise_for_status().json()
            found |= {user["user_id"]: user["transactions"] for user in answer["data"]}
            cursor = answer["pagination"]["next_cursor"]
            if cursor is None:
                return found


def total(profiles: dict[str, Facts]) -> tuple[int, Decimal]:
    """Purchases and revenue over all profiles; all of one currency."""
    bought = [facts for facts in profiles.values() if facts["total_purchases"]]
    assert {facts["currency"] for facts in bought} == {"USD"}
    purchases = sum(int(str(facts["total_purchases"])) for facts in bought)
    return purchases, sum((Decimal(str(facts["total_revenue"])) for facts in bought), Decimal())


def days_until_last_week(last: date) -> int:
    """Days to shift so that the file's last day is a few days ago."""
    return (datetime.now(UTC).date() - last).days - 5


def purchases_file(path: Path, rows: int) -> tuple[Counter[str], Decimal]:
    """A file like the sample, and by customer the number and the sum of purchases."""
    chance = random.Random(7)
    bought: Counter[str] = Counter()
    revenue = Decimal()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["customer_id", "date", "quantity", "amount"])
        for number in range(rows):
            customer, amount = f"{chance.randrange(25):05}", Decimal(chance.randrange(10_000)).scaleb(-2)
            day = date(1998, 1 + number % 6, 1 + number % 28)
            writer.writerow([customer, day, 1, "0.00" if number == 3 else amount])
            bought[f"cdnow-{customer}"] += 1
            revenue += 0 if number == 3 else amount
    return bought, revenue


async def test_purchases_of_a_small_file_are_in_the_profiles_and_a_second_run_changes_nothing(
    imports: Imports, api_url: str, admin: str, database: Database, cipher: Cipher, tmp_path: Path
) -> None:
    file = tmp_path / "purchases.csv"
    bought, revenue = purchases_file(file, 120)
    shift = days_until_last_week(LAST_DAY)
    await keep_events(api_url, admin, 730)
    profiles = await imports(file, EXAMPLES / "cdnow-profiles.toml", shift_days=shift)
    assert (profiles.code, profiles.errors) == (0, "")
    events = await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)
    assert (events.code, events.errors) == (0, "")
    assert numbers(events) == [
        "120",
        "120",
        "120",
        "0",
        str(len(bought)),
        "0",
    ]  # the last but one: consents granted
    await folded(database, cipher)
    before = await facts(database)
    seen = await transactions_of_all(api_url, admin)
    assert {name: facts["total_purchases"] for name, facts in seen.items()} == bought
    assert total(seen) == (120, revenue)

    await imports(file, EXAMPLES / "cdnow-profiles.toml", shift_days=shift)
    assert numbers(await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)) == [
        "120",
        "120",
        "0",
        "120",
        "0",
    ]
    await folded(database, cipher)
    assert await facts(database) == before


@pytest.mark.parametrize("role", [Role.ADMIN, Role.INTEGRATOR])
async def test_consents_have_their_source_and_a_withdrawn_one_stays_withdrawn(
    api_url: str, admin: str, database: Database, tmp_path: Path, role: Role
) -> None:
    imports = Imports(api_url, await new_key(database, role))
    file = tmp_path / "purchases.csv"
    purchases_file(file, 40)
    shift = days_until_last_week(LAST_DAY)
    await keep_events(api_url, admin, 730)
    await imports(file, EXAMPLES / "cdnow-profiles.toml", shift_days=shift)
    assert (await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)).code == 0
    async with httpx.AsyncClient(base_url=api_url, headers=bearer(admin), trust_env=False) as client:
        history = (await client.get("/users/cdnow-00001/consents/history")).json()["data"]
        assert [(said["purpose"], said["source"], said["policy_version"]) for said in history] == [
            ("data_collection", "import:cdnow-1997", "1997")
        ]
        assert (await client.delete("/users/cdnow-00001/consents/data_collection")).status_code == 200
    before = await facts(database)
    ran = await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)
    assert ran.code == 1
    assert await facts(database) == before  # nothing was given back, and nothing taken
    with (tmp_path / "purchases.rejects.csv").open(newline="") as rejects:
        rows = list(csv.DictReader(rejects))
    assert {(row["customer_id"], row["code"], row["pointer"]) for row in rows} == {
        ("00001", "consent_required", "/user_id")
    }


async def test_purchases_under_contract_are_imported_for_a_person_without_consent(
    imports: Imports, api_url: str, admin: str, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "purchases.csv"
    bought, _ = purchases_file(file, 40)
    shift = days_until_last_week(LAST_DAY)
    await keep_events(api_url, admin, 730)
    await imports(file, EXAMPLES / "cdnow-profiles.toml", shift_days=shift)
    declared = {"basis": "contract", "basis_reason": "Orders are kept under their contract."}
    async with httpx.AsyncClient(base_url=api_url, headers=bearer(admin), trust_env=False) as client:
        assert (await client.delete("/users/cdnow-00001/consents/data_collection")).status_code == 200
        answer = await client.put("/events/types/transaction.purchase_complete", json=declared)
        assert answer.status_code == 200
    ran = await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)
    assert (ran.code, ran.errors) == (0, "")
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT user_id, basis, count(*) FROM events GROUP BY user_id, basis")
    bases = {user_id: "consent" if user_id != "cdnow-00001" else "contract" for user_id in bought}
    assert {tuple(row) for row in rows} == {(user_id, bases[user_id], count) for user_id, count in bought.items()}


async def test_an_integrators_key_is_enough(api_url: str, admin: str, database: Database, tmp_path: Path) -> None:
    imports = Imports(api_url, await new_key(database, Role.INTEGRATOR))
    file = tmp_path / "purchases.csv"
    purchases_file(file, 40)
    shift = days_until_last_week(LAST_DAY)
    await keep_events(api_url, admin, 730)
    assert (await imports(file, EXAMPLES / "cdnow-profiles.toml", shift_days=shift)).code == 0
    ran = await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)
    assert (ran.code, ran.errors) == (0, "")
    before = await facts(database)
    assert (await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)).code == 0
    assert await facts(database) == before


async def test_all_rows_of_the_shipped_visits_are_accepted(
    imports: Imports, api_url: str, admin: str, database: Database, cipher: Cipher, tmp_path: Path
) -> None:
    people, visits = (Path(shutil.copy(EXAMPLES / name, tmp_path)) for name in ("people.csv", "visits.csv"))
    assert (await imports(people, EXAMPLES / "people-profiles.toml")).code == 0
    shift = days_until_last_week(date(2026, 2, 2))
    ran = await imports(visits, EXAMPLES / "visits-events.toml", shift_days=shift)
    assert (ran.code, ran.errors, numbers(ran)) == (0, "", ["6", "6", "6", "0", "0"])
    await folded(database, cipher)
    seen = await transactions_of_all(api_url, admin)
    assert (seen["shop-1001"]["total_purchases"], seen["shop-1001"]["total_revenue"]) == (1, "20.00")
    assert (seen["shop-1002"]["total_purchases"], seen["shop-1002"]["total_revenue"]) == (1, "0.00")


@pytest.mark.skipif(not SAMPLE.is_file(), reason="PERENNIAL_SAMPLE_DATA names no directory with cdnow_sample.csv")
async def test_every_purchase_of_the_cdnow_sample_counts_exactly_once(
    imports: Imports, api_url: str, admin: str, database: Database, cipher: Cipher, tmp_path: Path
) -> None:
    file = Path(shutil.copy(SAMPLE, tmp_path))
    shift = days_until_last_week(LAST_DAY)
    await keep_events(api_url, admin, 730)
    assert (await imports(file, EXAMPLES / "cdnow-profiles.toml", shift_days=shift)).code == 0
    events = await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)
    assert (events.code, events.errors, numbers(events)) == (
        0,
        "",
        ["6,919", "6,919", "6,919", "0", "2,357", "0"],
    )
    await folded(database, cipher)
    seen = await transactions_of_all(api_url, admin)
    assert len(seen) == 2357
    assert total(seen) == (6919, Decimal("244091.94"))
    before = await facts(database)
    again = await imports(file, EXAMPLES / "cdnow-events.toml", shift_days=shift)
    assert numbers(again) == ["6,919", "6,919", "0", "6,919", "0"]
    await folded(database, cipher)
    assert await facts(database) == before
    assert await transactions_of_all(api_url, admin) == seen


PROFILES = """\
kind = "profiles"
name = "people"
key = "user_id"
[fields]
user_id = "u-1"
email = "ada@example.com"
name = "Ada"
signup_date = "2026-01-05T00:00:00Z"
account_status = "active"
lifecycle_stage = "active"
"demographics.city" = "{city}"
"privacy_preferences.city" = false
"consents.data_collection" = true
"""
EVENTS = """\
kind = "events"
name = "visits"
historical = true
[fields]
event_id = "{mapping}-{line}"
user_id = "u-1"
event_type = "user.profile_update"
timestamp = "{at}"
session_id = "s-1"
location.city = "{city}"
event_properties.changes.demographics.city = "{city}"
"""


async def test_an_import_stores_no_attribute_that_the_person_has_forbidden(
    imports: Imports, api_url: str, admin: str, database: Database, cipher: Cipher, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text(f"at,city\n{datetime.now(UTC).isoformat()},Atlantis\n")
    for name, mapping in (("profiles", PROFILES), ("events", EVENTS), ("profiles", PROFILES)):
        (tmp_path / f"{name}.toml").write_text(mapping)
        ran = await imports(file, tmp_path / f"{name}.toml")
        assert (ran.code, ran.errors) == (0, "")
    await folded(database, cipher)
    async with httpx.AsyncClient(base_url=api_url, headers=bearer(admin), trust_env=False) as client:
        export = await client.get("/users/u-1/export")
    assert export.json()["profile"]["privacy_preferences"] == {"city": False}
    assert len(export.json()["events"]) == 1
    assert "Atlantis" not in export.text
