"""An integrator writes people and reads none, so no answer tells whether a guess equals the stored value."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.builders import collected, user
from tests.support.http import Clients, assert_problem

RIGHT = {"email": "u-1@example.com", "demographics": {"city": "Berlin"}, "lifecycle_stage": "onboarding"}
WRONG = {"email": "no@example.com", "demographics": {"city": "Bonn"}, "lifecycle_stage": "churned"}
MARKETING = "/users/u-1/consents/marketing"
GIVEN = {"granted": True, "source": "web_form", "policy_version": "2026-01", "legal_basis": "consent"}


@pytest.fixture
async def known(api: Clients) -> Clients:
    """A person with a city, and a consent that an admin's key recorded."""
    assert (await api.admin.post("/users", json=collected(city="Berlin"))).status_code == 201
    assert (await api.admin.put(MARKETING, json=GIVEN)).status_code == 200
    return api


def told(answer: httpx.Response, sent: dict[str, Any]) -> Any:
    """The answer without the values that were sent, the time of the write and the tag."""
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document.pop("updated_at", "") != document.get("created_at", "-")
    return {name: value for name, value in document.items() if name not in sent}


async def test_a_change_answers_the_same_to_a_right_and_a_wrong_guess(known: Clients) -> None:
    first = await known.integrator.patch("/users/u-1", json=RIGHT)
    again = await known.integrator.patch("/users/u-1", json=RIGHT)
    wrong = await known.integrator.patch("/users/u-1", json=WRONG)
    assert told(first, RIGHT) == told(again, RIGHT) == told(wrong, WRONG)
    assert len({each.json()["updated_at"] for each in (first, again, wrong)}) == 3
    assert len({each.headers["etag"] for each in (first, again, wrong)}) == 3


async def test_a_batch_answers_the_same_to_a_right_and_a_wrong_guess(known: Clients) -> None:
    answers = [
        (await known.integrator.post("/users/batch", json={"users": [{"user_id": "u-1", **guess}]})).json()
        for guess in (RIGHT, RIGHT, WRONG)
    ]
    assert answers[0] == answers[1] == answers[2]
    assert not {"changed", "unchanged"} & {*answers[0], *answers[0]["results"][0]}
    repeated = {"users": [{"user_id": "u-1", **WRONG}]}
    headers = {"Idempotency-Key": "k"}
    assert (await known.integrator.post("/users/batch", json=repeated, headers=headers)).json() == answers[0]
    assert (await known.integrator.post("/users/batch", json=repeated, headers=headers)).json() == answers[0]
    read = (await known.admin.post("/users/batch", json=repeated)).json()
    assert (read["unchanged"], read["results"][0]["changed"]) == (1, False)


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("PATCH", "/users/u-1", RIGHT),
        ("PATCH", "/users/u-1", {}),
        ("POST", "/users/batch", {"users": [{"user_id": "u-1", **RIGHT}]}),
        ("POST", "/users/batch", {"users": [{"user_id": "u-1", **each} for each in (WRONG, RIGHT)]}),
        ("PUT", MARKETING, GIVEN),
        ("DELETE", "/users/u-1/consents/profiling", None),
    ],
)
async def test_no_tag_outlives_a_write_that_changed_nothing(
    known: Clients, method: str, path: str, content: Any
) -> None:
    await known.admin.delete("/users/u-1/consents/profiling")
    tag = (await known.integrator.patch("/users/u-1", json={})).headers["etag"]
    before = (await known.admin.get("/users/u-1")).json()
    assert (await known.integrator.request(method, path, json=content)).status_code == 200
    assert (await known.admin.get("/users/u-1")).json() == before
    late = await known.integrator.patch("/users/u-1", json={}, headers={"If-Match": tag})
    assert_problem(late, 412, "precondition_failed")


async def test_an_integrator_can_name_no_tag_of_another_view(known: Clients) -> None:
    for client in (known.admin, known.analyst):
        tag = (await client.get("/users/u-1")).headers["etag"]
        answer = await known.integrator.patch("/users/u-1", json={}, headers={"If-Match": tag})
        assert_problem(answer, 412, "precondition_failed")
        assert (await known.admin.patch("/users/u-1", json={}, headers={"If-Match": tag})).status_code == 200


async def test_consents_of_others_are_not_told(known: Clients) -> None:
    same = await known.integrator.put(MARKETING, json=GIVEN)
    new = await known.integrator.put(MARKETING, json=GIVEN | {"policy_version": "2026-02"})
    assert same.json() == {"user_id": "u-1", "purpose": "marketing", **GIVEN, "changed_at": None}
    assert new.json() == same.json() | {"policy_version": "2026-02"}
    await known.admin.put(MARKETING, json={"granted": False, "source": "call_centre", "policy_version": "2026-03"})
    first = await known.integrator.delete(MARKETING)
    await known.admin.put(MARKETING, json=GIVEN)
    second = await known.integrator.delete(MARKETING)
    assert first.json() == second.json()
    assert "call_centre" not in first.text
    assert "2026-03" not in first.text


async def test_an_admin_still_sees_that_nothing_has_changed(api: Clients) -> None:
    first = await api.admin.post("/users", json=user())
    again = await api.admin.patch("/users/u-1", json={"name": "Ada Lovelace"})
    assert again.headers["etag"] == first.headers["etag"]
    assert again.json() == first.json()


async def test_an_age_that_is_sent_tells_nothing_of_a_stored_date_of_birth(api: Clients) -> None:
    assert (await api.admin.post("/users", json=collected(date_of_birth="1992-01-05"))).status_code == 201
    answer = await api.integrator.patch("/users/u-1", json={"demographics": {"age": 50}})
    assert answer.json()["demographics"] == {"age": 50}
