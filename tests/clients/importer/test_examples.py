"""The shipped examples can be imported unchanged."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.importer.conftest import EXAMPLES, SAMPLE, Ran
from tests.clients.importer.peer import Peer

CDNOW = EXAMPLES / "cdnow-profiles.toml"


def test_the_example_of_people_is_imported(peer: Peer, run: Callable[..., Ran], tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "people.csv", tmp_path)
    ran = run(mapping=(EXAMPLES / "people-profiles.toml").read_text())
    assert (ran.code, ran.errors) == (0, "")
    assert [user["name"] for user in peer.users.values()] == ["Ada Lovelace", "Hopper", "Alan Turing"]
    assert peer.users["shop-1001"] == {
        "user_id": "shop-1001",
        "email": "ada@example.com",
        "name": "Ada Lovelace",
        "signup_date": "2026-01-05T10:00:00Z",
        "account_status": "active",
        "lifecycle_stage": "onboarding",
        "consents": {"data_collection": True, "marketing": True},
        "demographics": {"country": "gb", "date_of_birth": "1990-12-10", "gender": "female"},
    }
    assert peer.users["shop-1003"]["consents"]["marketing"] is False


def test_purchases_become_customers_with_their_first_purchase_as_signup(
    peer: Peer, run: Callable[..., Ran], tmp_path: Path
) -> None:
    rows = ["00004,1997-01-18,2,29.73", "00021,1997-01-01,3,63.34", "00004,1997-01-01,2,29.33"]
    (tmp_path / "small.csv").write_text("\n".join(["customer_id,date,quantity,amount", *rows]) + "\n")
    assert run("small.csv", mapping=CDNOW.read_text(), shift_days=10_000).code == 0
    assert {name: user["signup_date"] for name, user in peer.users.items()} == {
        "cdnow-00004": "2024-05-19T00:00:00Z",
        "cdnow-00021": "2024-05-19T00:00:00Z",
    }


@pytest.mark.skipif(not SAMPLE.is_file(), reason="PERENNIAL_SAMPLE_DATA names no directory with cdnow_sample.csv")
def test_the_cdnow_sample_becomes_2357_customers(peer: Peer, run: Callable[..., Ran], tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path)
    ran = run(SAMPLE.name, mapping=CDNOW.read_text(), shift_days=0)
    assert ran.code == 0
    with SAMPLE.open(newline="") as file:
        first: dict[str, str] = {}
        for row in csv.DictReader(file):
            first[row["customer_id"]] = min(row["date"], first.get(row["customer_id"], "9999"))
    assert len(peer.users) == len(first) == 2357
    assert {name: user["signup_date"] for name, user in peer.users.items()} == {
        f"cdnow-{customer}": f"{day}T00:00:00Z" for customer, day in first.items()
    }
