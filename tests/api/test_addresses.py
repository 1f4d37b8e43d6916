"""E-mail addresses: domains of IDNA 2008, at the profile and in a search."""

from __future__ import annotations

import pytest

from tests.support.builders import user
from tests.support.http import Clients, field_errors


@pytest.mark.parametrize(
    "address",
    [
        "a@☃.example",
        "a@xn--a.example",
        "a@xn--zckzah-.example",
        "a@\u200dab.example",
        "a@-ab.example",
        "a@ab--cd.example",
        "a@" + "ü" * 60 + ".example",
        "=?utf-8?q?=0D=0ABcc=3A_evil=40example.org?=@example.com",
        "=?utf-8?q?eve?=@example.com",
    ],
)
async def test_an_address_that_no_mail_can_be_sent_to_is_rejected(api: Clients, address: str) -> None:
    assert field_errors(await api.admin.post("/users", json=user("u-1", email=address))) == {
        ("/email", "invalid_email")
    }


@pytest.mark.parametrize(
    ("stored", "found", "another"),
    [
        ("Info@straße.example", "info@xn--strae-oqa.example", "info@strasse.example"),
        ("info@xn--strae-oqa.example", "info@STRAßE.example", "info@strasse.example"),
        ("ada@bücher.example", "Ada@XN--BCHER-KVA.EXAMPLE", "ada@bucher.example"),
        ("straße@example.com", "STRAßE@example.com", "strasse@example.com"),
        ("i\u0307@example.com", "İ@example.com", "i@example.com"),
    ],
)
async def test_a_search_finds_each_spelling_of_an_address_and_no_other_address(
    api: Clients, stored: str, found: str, another: str
) -> None:
    assert (await api.admin.post("/users", json=user("u-1", email=stored))).status_code == 201
    for address, number in ((stored, 1), (found, 1), (another, 0)):
        answer = await api.admin.post("/users/search", json={"email": address})
        assert len(answer.json()["data"]) == number, address
    assert (await api.admin.get("/users/u-1")).json()["email"] == stored
