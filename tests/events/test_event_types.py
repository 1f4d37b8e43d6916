"""Event types: standard ones, and custom ones that an admin declares."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.rules.taxonomy import STANDARD
from models.vocabulary import Role
from tests.support.events import add_user, event, purchase
from tests.support.http import Clients, field_errors

SCHEMA = {
    "type": "object",
    "properties": {"course": {"type": "string", "maxLength": 20}, "score": {"type": "integer", "minimum": 0}},
    "required": ["course"],
    "additionalProperties": False,
}
DECLARATION: dict[str, Any] = {
    "description": "A lesson is done.",
    "schema": SCHEMA,
    "pii": [],
    "dimensions": ["course"],
}
PATH = "/events/types/lesson.finish"


async def test_the_standard_types_are_those_of_the_contract(api: Clients) -> None:
    listed = (await api.analyst.get("/events/types")).json()["data"]
    names = {
        "user": ["signup", "login", "logout", "profile_update", "account_deletion"],
        "engagement": ["page_view", "feature_click", "content_view", "search", "share"],
        "transaction": ["cart_add", "cart_remove", "checkout_start", "purchase_complete", "refund"],
        "lifecycle": ["stage_changed"],
    }
    assert [each["event_type"] for each in listed] == [
        f"{group}.{name}" for group in names for name in names[group]
    ]
    assert all(each["standard"] and each["schema"]["properties"] and each["description"] for each in listed)


def test_no_standard_type_has_a_personal_dimension() -> None:
    for declared in STANDARD.values():
        assert not {f"/{name}" for name in declared.dimensions} & set(declared.pii)
        assert set(declared.dimensions) <= declared.declared


async def test_a_declared_type_is_enforced_for_the_next_event(api: Clients) -> None:
    await add_user(api.admin)
    loose = event(event_properties={"anything": [1, {"x": None}]})
    assert (await api.integrator.post("/events", json=loose)).status_code == 202
    created = await api.admin.put(PATH, json=DECLARATION)
    assert (created.status_code, created.json()["schema"]) == (201, SCHEMA)
    answer = await api.integrator.post("/events", json=event(event_properties={"anything": 1, "score": -1}))
    assert field_errors(answer) == {
        ("/event_properties/course", "required"),
        ("/event_properties", "unknown_field"),
        ("/event_properties/score", "too_small"),
    }
    good = event(event_properties={"course": "a", "score": 1})
    assert (await api.integrator.post("/events", json=good)).status_code == 202
    changed = await api.admin.put(PATH, json=DECLARATION | {"schema": {"required": ["teacher"]}})
    assert changed.status_code == 200
    again = await api.integrator.post("/events", json={**good, "event_id": "e-3"})
    assert field_errors(again) == {("/event_properties/teacher", "required")}
    listed = (await api.integrator.get("/events/types")).json()["data"][-1]
    assert (listed["event_type"], listed["standard"]) == ("lesson.finish", False)


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"schema": {"properties": {"a": {"type": "nonsense"}}}}, "/schema", "invalid_schema"),
        ({"schema": {"type": "array"}}, "/schema/type", "invalid_schema"),
        ({"schema": {"$ref": "http://127.0.0.1:1/x"}}, "/schema", "invalid_schema"),
        ({"schema": {"$ref": "file:///etc/passwd"}}, "/schema", "invalid_schema"),
        ({"schema": {"properties": {"a": {"pattern": r"(a)\1"}}}}, "/schema", "invalid_schema"),
        ({"schema": {"properties": {"a": {"pattern": "(((a{99}){99}){99})"}}}}, "/schema", "invalid_schema"),
        ({"schema": {"description": "x" * 17_000}}, "/schema", "too_large"),
        ({"schema": []}, "/schema", "invalid_type"),
        ({"pii": ["name"]}, "/pii/0", "invalid_format"),
        ({"pii": ["/a~2"]}, "/pii/0", "invalid_format"),
        ({"pii": ["/" + "x" * 1024]}, "/pii/0", "too_long"),
        ({"pii": ["/course"]}, "/dimensions/0", "dimension_is_personal"),
        ({"pii": ["/course/teacher"]}, "/dimensions/0", "dimension_is_personal"),
        ({"pii": [""]}, "/dimensions/0", "dimension_is_personal"),
        ({"dimensions": [""]}, "/dimensions/0", "invalid_format"),
        ({"more": 1}, "/more", "unknown_field"),
    ],
)
async def test_an_invalid_declaration_is_rejected(api: Clients, changes: Any, pointer: str, code: str) -> None:
    assert field_errors(await api.admin.put(PATH, json=DECLARATION | changes)) == {(pointer, code)}


async def test_types_are_listed_in_pages_with_the_standard_ones_first(api: Clients) -> None:
    for name in ("lesson.finish", "account.open", "zoo.visit"):
        assert (await api.admin.put(f"/events/types/{name}", json=DECLARATION)).status_code == 201
    seen, cursor = [], None
    for _ in range(5):
        parameters = {"limit": 4} | ({"cursor": cursor} if cursor else {})
        page = (await api.analyst.get("/events/types", params=parameters)).json()
        assert page["pagination"]["limit"] == 4
        seen += [each["event_type"] for each in page["data"]]
        cursor = page["pagination"]["next_cursor"]
    assert cursor is None
    assert seen == [*STANDARD, "account.open", "lesson.finish", "zoo.visit"]
    assert page["data"][-1]["changed_at"].endswith("Z")
    answer = await api.analyst.get("/events/types", params={"cursor": "x"})
    assert field_errors(answer) == {("/query/cursor", "invalid_cursor")}


async def test_deep_schemas_are_rejected(api: Clients) -> None:
    schema: dict[str, Any] = {}
    for _ in range(40):
        schema = {"properties": {"a": schema}}
    answer = await api.admin.put(PATH, json=DECLARATION | {"schema": schema})
    assert field_errors(answer) == {("/schema", "invalid_schema")}


@pytest.mark.parametrize("name", ["lesson", "Lesson.finish", "a.b.c", "user.signup", "x." + "y" * 127])
async def test_invalid_and_standard_names_cannot_be_declared(api: Clients, name: str) -> None:
    answer = await api.admin.put(f"/events/types/{name}", json=DECLARATION)
    assert {pointer for pointer, _ in field_errors(answer)} == {"/path/event_type"}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": "^(a+)+$"}}},
        {"properties": {"a": {"pattern": "^(a|a)*$"}}},
    ],
)
async def test_no_schema_stalls_ingest(api: Clients, schema: dict[str, Any]) -> None:
    await add_user(api.admin)
    assert (await api.admin.put(PATH, json={"schema": schema})).status_code == 201
    async with asyncio.timeout(30):  # a stalled ingest would run into this
        answer = await api.integrator.post("/events", json=event(event_properties={"a": "a" * 30_000 + "b"}))
    assert answer.status_code in (202, 422)


def doubling(levels: int, keyword: str = "allOf") -> dict[str, Any]:
    """Definitions that each name the next one twice: 2^levels schemas after expansion."""
    named = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}, {"$ref": f"#/$defs/d{level + 1}"}]}
        for level in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": named | {f"d{levels}": {"minLength": 1}}}


def within(applicator: str, reference: Any) -> dict[str, Any]:
    inner: Any = reference
    if applicator in ("allOf", "anyOf", "oneOf", "prefixItems"):
        inner = [reference]
    elif applicator in ("properties", "patternProperties", "dependentSchemas"):
        inner = {"a": reference}
    return {"$ref": "#/$defs/a", "$defs": {"a": {applicator: inner}}}


APPLICATORS = [
    *(
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "properties",
        "patternProperties",
    ),
    *("items", "prefixItems", "contains", "additionalProperties", "propertyNames", "unevaluatedItems"),
]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
        {"$defs": {"unused": {"$ref": "#/$defs/unused"}}},
        {"$ref": "#/other", "other": {"not": {"$ref": "#/other"}}},
        {"$defs": {"a~b": {"$ref": "#/$defs/a~0b"}}},
        {"$dynamicRef": "#node", "$dynamicAnchor": "node"},
        {"properties": {"a": {"$recursiveRef": "#"}}},
        {"properties": {"a": {"$id": "https://example.com/a", "$ref": "#"}}},
        {"properties": {"a": {"$ref": "#anchor"}}, "$anchor": "anchor"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "other.json#/a"},
        {"$ref": "#/$defs/none"},
        doubling(100),
        doubling(12, "anyOf"),
        doubling(12, "prefixItems"),
        {"allOf": [{}] * 64},
        {"properties": {f"p{number}": {} for number in range(30)}, "items": {"anyOf": [{"minimum": 1}] * 64}},
        {"properties": {"a": {"enum": list(range(501))}}},
        {"patternProperties": {f"^p{number}": {} for number in range(21)}},
        *(within(applicator, {"$ref": "#/$defs/a"}) for applicator in APPLICATORS),
        *(within(applicator, {"not": {"$ref": "#"}}) for applicator in APPLICATORS),
    ],
)
async def test_a_schema_without_a_bounded_size_is_refused(api: Clients, schema: dict[str, Any]) -> None:
    async with asyncio.timeout(10):
        answer = await api.admin.put(PATH, json={"schema": schema})
    [(pointer, code)] = field_errors(answer)
    assert (pointer.split("/")[1], code) == ("schema", "invalid_schema")


@pytest.mark.parametrize(
    "schema",
    [
        doubling(4),
        {"$id": "https://example.com/root.json", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {}}},
        {"properties": {name: {"$ref": "#/$defs/x"} for name in "abcdefgh"}, "$defs": {"x": {"type": "string"}}},
        {"properties": {"$ref": {"type": "string"}, "enum": {"$ref": "#/properties/$ref"}}},
        {"properties": {"a": {"const": {"$ref": "#/nowhere"}, "examples": [{"$ref": "#"}]}}},
        {"properties": {f"p{number}": {"type": "string"} for number in range(400)}},
        {"properties": {"a": {"enum": list(range(500))}}},
    ],
)
async def test_a_schema_of_bounded_size_is_accepted(api: Clients, schema: dict[str, Any]) -> None:
    await add_user(api.admin)
    assert (await api.admin.put(PATH, json={"schema": schema})).status_code == 201
    assert (await api.integrator.post("/events", json=event(event_properties={"z": 1}))).status_code == 202


@pytest.mark.parametrize(
    ("schema", "value", "code", "message"),
    [
        ({"type": "string"}, 7313, "invalid_type", "must be a string"),
        ({"type": ["integer", "null"]}, "7313", "invalid_type", "must be an integer or null"),
        ({"enum": ["a", 2, None]}, 7313, "invalid_choice", 'must be one of "a", 2, null'),
        ({"const": "a"}, 7313, "invalid_choice", 'must be "a"'),
        ({"maxLength": 3}, "7313", "too_long", "must have at most 3 characters"),
        ({"minLength": 5}, "7313", "too_short", "must have at least 5 characters"),
        ({"maxItems": 1}, [7313, 1], "too_long", "must have at most 1 item"),
        ({"minItems": 2}, [7313], "too_short", "must have at least 2 items"),
        ({"uniqueItems": True}, [7313, 7313], "invalid_value", "must have no item twice"),
        ({"minimum": 0}, -7313, "too_small", "must not be negative"),
        ({"minimum": 1.5}, -7313, "too_small", "must be at least 1.5"),
        ({"exclusiveMinimum": 0}, -7313, "too_small", "must be more than 0"),
        ({"maximum": 9}, 7313, "too_large", "must be at most 9"),
        ({"exclusiveMaximum": 9}, 7313, "too_large", "must be less than 9"),
        ({"multipleOf": 5}, 7313, "invalid_value", "must be a multiple of 5"),
        ({"pattern": "^x$"}, "7313", "invalid_format", "must match the pattern ^x$"),
        (
            {"pattern": "^x$", "description": "Where it was bought.", "examples": ["x"]},
            "7313",
            "invalid_format",
            "must match the pattern ^x$: Where it was bought, such as x",
        ),
        ({"pattern": "^x$", "description": "A letter."}, "7313", "invalid_format", "must be a letter"),
        ({"format": "email"}, "7313", "invalid_format", "must be an e-mail address, such as name@example.com"),
        ({"format": "date"}, "7313", "invalid_format", "must be a date, such as 2026-01-31"),
        ({"maxProperties": 0}, {"7313": 1}, "too_long", "must have at most 0 properties"),
        (
            {"properties": {"x": {}}, "additionalProperties": False},
            {"7313": 1},
            "unknown_field",
            'must have no other properties than "x"',
        ),
        ({"additionalProperties": False}, {"7313": 1}, "unknown_field", "must have no other properties"),
        ({"$ref": "#/$defs/x"}, 7313, "invalid_type", "must be a string: The letter"),
        ({"not": {}}, 7313, "invalid_value", "must match the event type's schema"),
        (
            {"anyOf": [{"type": "string"}, {"type": "number", "maximum": 9}]},
            7313,
            "invalid_value",
            "must be at most 9",
        ),
    ],
)
async def test_an_error_says_what_the_schema_wants(
    api: Clients, schema: dict[str, Any], value: Any, code: str, message: str
) -> None:
    await add_user(api.admin)
    whole = {"properties": {"a": schema}, "$defs": {"x": {"type": "string", "description": "The letter."}}}
    assert (await api.admin.put(PATH, json={"schema": whole})).status_code == 201
    answer = await api.integrator.post("/events", json=event(event_properties={"a": value}))
    assert answer.json()["errors"] == [{"pointer": "/event_properties/a", "code": code, "message": message}]
    assert "7313" not in answer.text


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"currency": "eur"}, "must be an ISO 4217 code in capitals, such as EUR"),
        ({"currency": "Euro"}, "must be an ISO 4217 code in capitals, such as EUR"),
        ({"currency": 978}, "must be an ISO 4217 code in capitals, such as EUR"),
        ({"currency": "XYZ"}, "must be an ISO 4217 code in capitals, such as EUR"),
        ({"amount": "-5"}, "must not be negative: send zero or more, such as 29.90"),
        ({"amount": -5}, "must not be negative: send zero or more, such as 29.90"),
        (
            {"amount": "1,299.00"},
            "must be a decimal number without separators, of at most 12 digits and six decimal places, "
            "such as 29.90",
        ),
        (
            {"amount": True},
            "must be an amount of zero or more, as a decimal string or a number with at most six decimal places, "
            "such as 29.90",
        ),
        ({"order_id": ""}, "must have at least 1 character"),
    ],
)
async def test_an_error_of_a_purchase_says_what_is_wanted(
    api: Clients, properties: dict[str, Any], message: str
) -> None:
    await add_user(api.admin)
    answer = await api.integrator.post("/events", json=purchase(**properties))
    [error] = answer.json()["errors"]
    assert error["message"] == message


async def test_every_role_lists_types_and_admins_alone_declare_them(api: Clients) -> None:
    for role in Role:
        assert (await api.of(role).get("/events/types")).status_code == 200
        expected = 201 if role is Role.ADMIN else 403
        assert (await api.of(role).put(PATH, json=DECLARATION)).status_code == expected
