"""The versions of event types' declarations, and when a declaration applies."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from models.rules.taxonomy import STANDARD
from models.vocabulary import Role
from store.connection import Connection
from tests.support.events import add_user, event
from tests.support.http import Clients, assert_problem, field_errors

PATH = "/events/types/lesson.finish"
DECLARATION: dict[str, Any] = {
    "description": "A lesson is done.",
    "schema": {"type": "object", "properties": {"course": {"type": "string"}, "teacher": {"type": "string"}}},
    "pii": ["/teacher"],
    "dimensions": ["course"],
}


async def test_a_type_is_read_as_it_was_declared(api: Clients) -> None:
    assert_problem(await api.admin.get(PATH), 404, "event_type_not_found")
    assert_problem(await api.admin.get(f"{PATH}/versions"), 404, "event_type_not_found")
    assert_problem(await api.admin.get("/events/types/Not a name"), 404, "event_type_not_found")
    created = await api.admin.put(PATH, json=DECLARATION)
    assert (created.status_code, created.json()["version"]) == (201, 1)
    for role in Role:
        answer = await api.of(role).get(PATH)
        assert (answer.status_code, answer.json()) == (200, created.json())
    assert (await api.analyst.get("/events/types")).json()["data"][-1] == created.json()
    standard = (await api.analyst.get("/events/types/user.signup")).json()
    assert (standard["standard"], standard["version"], standard["changed_at"]) == (True, None, None)
    assert (await api.analyst.get("/events/types/user.signup/versions")).json()["data"] == []


async def test_each_change_makes_a_version_and_an_equal_declaration_none(api: Clients) -> None:
    first = (await api.admin.put(PATH, json=DECLARATION)).json()
    changes: list[dict[str, Any]] = [
        {"description": "A lesson has ended."},
        {"schema": {"type": "object"}},
        {"pii": []},
        {"dimensions": []},
        {"basis": "contract", "basis_reason": "Lessons are paid."},
        {"basis": "contract", "basis_reason": "Lessons are paid for."},
        {},
    ]
    versions = [first]
    for number, change in enumerate(changes, 2):
        changed = await api.admin.put(PATH, json=DECLARATION | change)
        assert (changed.status_code, changed.json()["version"]) == (200, number)
        again = await api.admin.put(PATH, json=DECLARATION | change)
        assert (again.status_code, again.json()) == (200, changed.json())
        versions.append(changed.json())
    seen: list[dict[str, Any]] = []
    cursor = None
    while cursor or not seen:
        page = await api.analyst.get(
            f"{PATH}/versions", params={"limit": 3} | ({"cursor": cursor} if cursor else {})
        )
        seen += page.json()["data"]
        cursor = page.json()["pagination"]["next_cursor"]
    actor = (await api.admin.get("/audit", params={"action": "event_types.change"})).json()["data"][0]["actor"]
    expected = [{**version, "actor": actor} for version in reversed(versions)]
    assert [{**version, "standard": False} for version in seen] == expected
    audited = (await api.admin.get("/audit", params={"action": "event_types.change"})).json()["data"]
    assert [each["details"]["version"] for each in audited] == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1]
    wrong = await api.analyst.get(f"{PATH}/versions", params={"cursor": "x"})
    assert field_errors(wrong) == {("/query/cursor", "invalid_cursor")}
    assert_problem(await api.integrator.get(f"{PATH}/versions"), 403, "forbidden")


async def test_the_basis_of_a_standard_type_has_versions(api: Clients) -> None:
    path = "/events/types/transaction.refund"
    declared = await api.admin.put(path, json={"basis": "contract", "basis_reason": "Refunds are owed."})
    assert (declared.status_code, declared.json()["version"]) == (200, 1)
    assert (await api.admin.put(path, json={})).json()["version"] == 2
    latest, first = (await api.analyst.get(f"{path}/versions")).json()["data"]
    assert (latest["basis"], first["basis"], first["basis_reason"]) == ("consent", "contract", "Refunds are owed.")
    assert first["schema"] == STANDARD["transaction.refund"].schema


async def test_declarations_at_once_make_versions_without_gap_or_loss(api: Clients, owner: Connection) -> None:
    """They arrive together, for a type that doesn't exist yet. Each is sent twice."""
    sent = [DECLARATION | {"description": f"Declaration {number // 2}."} for number in range(16)]
    answers = await asyncio.gather(*(api.admin.put(PATH, json=each) for each in sent))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    versions = (await api.admin.get(f"{PATH}/versions")).json()["data"]
    numbers = [version["version"] for version in versions]
    assert numbers == list(range(len(versions), 0, -1))
    assert {version["description"] for version in versions} == {each["description"] for each in sent}
    told = {answer.json()["version"]: answer.json()["description"] for answer in answers}
    assert told == {version["version"]: version["description"] for version in versions}
    times = [version["changed_at"] for version in versions]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == len(times)
    current = (await api.admin.get(PATH)).json()
    assert (current["version"], current["changed_at"]) == (numbers[0], times[0])
    assert await owner.fetchval("SELECT count(*) FROM event_type_versions") == len(versions)


async def test_a_declaration_that_is_rolled_back_leaves_no_version(api: Clients, owner: Connection) -> None:
    await owner.execute(
        "ALTER TABLE event_type_versions ADD CONSTRAINT refused CHECK (description <> 'Refused.') NOT VALID"
    )
    try:
        assert (await api.admin.put(PATH, json=DECLARATION)).status_code == 201
        refused = await api.admin.put(PATH, json=DECLARATION | {"description": "Refused."})
        assert refused.status_code == 500
    finally:
        await owner.execute("ALTER TABLE event_type_versions DROP CONSTRAINT refused")
    assert (await api.admin.get(PATH)).json()["description"] == DECLARATION["description"]
    assert len((await api.admin.get(f"{PATH}/versions")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("pii", "dimensions", "overlapping"),
    [
        (["/course"], ["course"], [0]),
        (["/course/teacher/name"], ["score", "course"], [1]),
        ([""], ["score", "course"], [0, 1]),
        (["/a~1b"], ["a/b"], [0]),
        (["/a~1b/0"], ["a/b"], [0]),
        (["/a~0b"], ["a~b"], [0]),
        (["/courses", "/cours", "/teacher/course", "/a/b"], ["course", "a/b", "b"], []),
    ],
)
async def test_personal_pointers_and_dimensions_do_not_overlap(
    api: Clients, pii: list[str], dimensions: list[str], overlapping: list[int]
) -> None:
    answer = await api.admin.put(PATH, json={"schema": {}, "pii": pii, "dimensions": dimensions})
    if overlapping:
        assert field_errors(answer) == {(f"/dimensions/{at}", "dimension_is_personal") for at in overlapping}
    else:
        assert answer.status_code == 201, answer.text


async def test_a_narrower_declaration_holds_for_the_next_event_and_not_for_stored_ones(
    api: Clients, owner: Connection
) -> None:
    await add_user(api.admin)
    await api.admin.put(PATH, json=DECLARATION)
    sent = {"course": "spanish", "teacher": "bob"}
    assert (await api.integrator.post("/events", json=event("e-1", event_properties=sent))).status_code == 202
    await api.admin.put(PATH, json=DECLARATION | {"dimensions": []})
    assert (await api.integrator.post("/events", json=event("e-2", event_properties=sent))).status_code == 202
    stored = await owner.fetch("SELECT event_id, dimensions::text FROM events ORDER BY event_id")
    assert [(row[0], json.loads(row[1] or "null")) for row in stored] == [
        ("e-1", {"course": "spanish"}),
        ("e-2", None),
    ]
    # Masks follow the declaration of the moment, also for stored events.
    for pii, shown in ((["/course", "/teacher"], "***"), ([], "spanish")):
        await api.admin.put(PATH, json=DECLARATION | {"pii": pii, "dimensions": []})
        for read in (await api.analyst.get("/users/u-1/events")).json()["data"]:
            assert read["event_properties"]["course"] == shown
