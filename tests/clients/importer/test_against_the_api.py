"""Imports through the real API, in its own process, into Postgres."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from models.vocabulary import Role
from runtime.database import Database
from tests.clients.importer.conftest import EXAMPLES, HEADER, MAPPING, SAMPLE, Imports, people
from tests.clients.importer.test_import import numbers
from tests.support.http import bearer, new_key

Write = Callable[..., Path]


@pytest.fixture
async def imported(api_url: str, database: Database) -> Imports:
    """Imports with the key of an integrator, into an empty database."""
    return Imports(api_url, await new_key(database, Role.INTEGRATOR))


async def users(database: Database) -> dict[str, str]:
    """Signup date by user id."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT user_id, signup_date FROM users")
    return {row["user_id"]: row["signup_date"].isoformat() for row in rows}


@pytest.mark.parametrize(
    ("role", "updated", "unchanged", "writes"), [(Role.ADMIN, "0", "40", 0), (Role.INTEGRATOR, "40", "0", 1)]
)
async def test_a_second_run_changes_nothing_in_the_database(
    api_url: str, database: Database, write: Write, role: Role, updated: str, unchanged: str, writes: int
) -> None:
    """An integrator isn't told what is unchanged, and its writes are counted."""
    imported = Imports(api_url, await new_key(database, role))
    file, mapping = write("people.csv", people(40)), write("mapping.toml", MAPPING)
    assert numbers(await imported(file, mapping)) == ["40", "40", "40", "0", "0", "0"]
    async with database.connection() as connection:
        before = [dict(row) for row in await connection.fetch("SELECT * FROM users ORDER BY user_id")]
    second = await imported(file, mapping)
    assert (second.code, numbers(second)) == (0, ["40", "40", "0", updated, unchanged, "0"])
    async with database.connection() as connection:
        after = [dict(row) for row in await connection.fetch("SELECT * FROM users ORDER BY user_id")]
    for row in after:
        assert {"email", "demographics.country"} <= row.pop("attribute_times").keys()  # sent again, so newer
    assert after == [
        {name: row[name] for name in row if name != "attribute_times"} | {"writes": writes} for row in before
    ]


async def test_the_rejects_file_holds_the_apis_reasons(
    imported: Imports, database: Database, write: Write
) -> None:
    rows = "7,not an address,Ada,2026-01-05T10:00:00Z,DE\n8,grace@example.com,Grace,2026-01-05T10:00:00Z,\n"
    ran = await imported(write("people.csv", HEADER + rows), write("mapping.toml", MAPPING))
    assert (ran.code, list(await users(database))) == (1, ["u-8"])
    with (write("x", "").parent / "people.rejects.csv").open(newline="") as file:
        [reject] = csv.DictReader(file)
    assert (reject["id"], reject["line"], reject["pointer"]) == ("7", "2", "/email")
    assert reject["code"]


async def test_an_attribute_that_a_file_leaves_out_stays(
    imported: Imports, database: Database, write: Write
) -> None:
    mapping = write("mapping.toml", MAPPING)
    await imported(write("people.csv", people(1)), mapping)
    renamed = write("again.csv", HEADER + "1,,Countess,,\n")
    assert numbers(await imported(renamed, mapping)) == ["1", "1", "0", "1", "0", "0"]
    assert await users(database) == {"u-1": "2026-01-05T10:00:00+00:00"}


async def test_a_wrong_or_weak_key_stops_with_one_sentence(api_url: str, database: Database, write: Write) -> None:
    file, mapping = write("people.csv", people(1)), write("mapping.toml", MAPPING)
    wrong = await Imports(api_url, "prn_wrong")(file, mapping)
    small = await Imports(api_url, await new_key(database, Role.ANALYST))(file, mapping)
    assert (wrong.code, small.code) == (2, 2)
    assert "doesn't know this key" in wrong.errors
    assert "may not import profiles" in small.errors


async def test_all_rows_of_the_shipped_examples_are_accepted(
    imported: Imports, database: Database, tmp_path: Path
) -> None:
    file = Path(shutil.copy(EXAMPLES / "people.csv", tmp_path))
    ran = await imported(file, EXAMPLES / "people-profiles.toml")
    assert (ran.code, ran.errors, numbers(ran)) == (0, "", ["3", "3", "3", "0", "0", "0"])
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT country FROM users WHERE user_id = 'shop-1001'") == "GB"


@pytest.mark.skipif(not SAMPLE.is_file(), reason="PERENNIAL_SAMPLE_DATA names no directory with cdnow_sample.csv")
async def test_a_second_import_of_the_cdnow_sample_changes_nothing(
    imported: Imports, database: Database, tmp_path: Path
) -> None:
    file = Path(shutil.copy(SAMPLE, tmp_path))
    ran = await imported(file, EXAMPLES / "cdnow-profiles.toml", shift_days=10_200)
    assert (ran.code, numbers(ran)) == (0, ["6,919", "2,357", "2,357", "0", "0", "0"])
    stored = await users(database)
    assert len(stored) == 2357
    assert stored["cdnow-00004"] == "2024-12-05T00:00:00+00:00"
    again = await imported(file, EXAMPLES / "cdnow-profiles.toml", shift_days=10_200)
    assert numbers(again) == ["6,919", "2,357", "0", "2,357", "0", "0"]


@pytest.mark.parametrize("replaces", [False, True])
async def test_a_profile_does_not_reverse_a_withdrawal_unless_the_mapping_says_so(
    imported: Imports, api_url: str, database: Database, write: Write, replaces: bool
) -> None:
    rule = '{ from = "yes", type = "boolean", if_recorded = "replace" }' if replaces else "true"
    text = MAPPING + f'"consents.marketing" = {rule}\n'
    file, mapping = write("people.csv", people(2)), write("mapping.toml", text)
    assert (await imported(file, mapping)).code == 0
    key = await new_key(database, Role.ADMIN)
    async with httpx.AsyncClient(base_url=api_url, headers=bearer(key), trust_env=False) as client:
        assert (await client.delete("/users/u-1/consents/marketing")).status_code == 200
        write("people.csv", people(2).replace("Person", "Dr."))
        assert numbers(await imported(file, mapping)) == ["2", "2", "0", "2", "0", "0"]
        found = [(await client.get(f"/users/u-{number}")).json() for number in (1, 2)]
    assert [each["consents"]["marketing"] for each in found] == [replaces, True]
    assert [each["name"] for each in found] == ["Dr. 1", "Dr. 2"]
