"""An export holds everything that the data map names, as each role may see it, and nothing of other people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from sqlalchemy import Column, Text
from sqlmodel import Field, SQLModel

from models import data_map
from models.data_map import exported_columns
from models.personal import ROW_COLUMNS, Mask, personal, personal_columns
from models.schemas.exports import UserExport
from models.tables.registry import TABLES
from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from store import exports
from store.connection import Connection
from tests.exports import filling
from tests.exports.filling import clear_text, encrypted_text, fill
from tests.support.builders import BORN, EVERYTHING, user
from tests.support.events import add_user, batch, event, purchase
from tests.support.http import Clients, assert_problem
from tests.support.log import Log, click
from tests.support.log import purchase as bought

HERS, HIS = "kanarie7f3cher", "kanarie7f3chis"
_PARTS = ["event_properties", "device_info", "location", "referrer"]
_RENAMED = {
    ("dead_letters", "dead_letter_id"): ["id"],
    ("user_activity", "total_session_seconds"): ["total_session_duration"],
    ("purchase_totals", "last_purchase_at"): ["last_purchase_date"],
    ("purchase_totals", "first_purchase_at"): ["first_purchase_date"],
    ("events", "body"): _PARTS,
}
"""Columns with another name in the API, or with several."""


async def export(client: httpx.AsyncClient, user_id: str = "u-1") -> dict[str, Any]:
    """An export that conforms to its schema."""
    answer = await client.get(f"/users/{user_id}/export")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    UserExport.model_validate(document)
    return document


@pytest.fixture
async def people(api: Clients, database: Database, owner: Connection, cipher: Cipher) -> Clients:
    """Two people with a row in every table."""
    for user_id, mark in (("u-1", HERS), ("u-2", HIS)):
        document = {**EVERYTHING, "user_id": user_id, "email": f"{mark}-email@example.com", "name": f"{mark}-name"}
        assert (await api.admin.post("/users", json=document)).status_code == 201
        await fill(database, owner, cipher, user_id, mark)
    return api


def shown_as(table: str, columns: list[str]) -> set[str]:
    """The API's names of columns."""
    of_instance = ["workflow_id"] if data_map.OWNER_COLUMNS.get(table) == "instance_id" else []
    return {name for column in columns for name in _RENAMED.get((table, column), [column])} | {*of_instance}


async def test_an_export_has_every_table_and_column_of_the_data_map(people: Clients) -> None:
    document = await export(people.admin)
    columns = exported_columns()
    profile, of_profile = document["profile"], columns.pop("users")
    assert set(document) == {"user_id", "exported_at", "profile", *columns}
    for name in of_profile:
        assert name in profile or name in profile["demographics"] or name in profile["transactions"], name
    for table, names in columns.items():
        assert document[table], table
        for row in document[table]:
            assert set(row) == shown_as(table, names), table
    assert document["user_id"] == "u-1"
    read = (await people.admin.get("/users/u-1")).json()
    assert {name: profile[name] for name in read} == read


async def test_an_admin_gets_every_encrypted_value_of_the_person_and_none_of_others(people: Clients) -> None:
    text = (await people.admin.get("/users/u-1/export")).text
    for table in TABLES:
        name = str(table.__tablename__)
        for column, declared in personal_columns(table).items():
            if name in exported_columns() and name != "users":
                shown = declared.mask is Mask.WORD
                held = clear_text(name, column, "u-1") if shown else encrypted_text(name, column, HERS)
                assert held in text, f"{name}.{column}"
    for part in ("id", "city", "referrer"):
        assert f"{encrypted_text('events', 'body', HERS)}-{part}" in text
    assert f"{HERS}-email@example.com" in text
    assert f"{HERS}-name" in text
    assert HIS not in text
    assert "u-2" not in text


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ANALYST])
async def test_masked_roles_get_the_same_shape_and_no_personal_text(people: Clients, role: Role) -> None:
    full, masked = await export(people.admin), await export(people.of(role))
    text = str(masked)
    for secret in (HERS, HIS, BORN, "Berlin'", "female"):
        assert secret not in text
    assert masked["profile"] == (await people.of(role).get("/users/u-1")).json() | {
        name: full["profile"][name]
        for name in ("version", "closed_at", "lifecycle_stage_changed_at", "attribute_times")
    }
    own = (full.pop("audit_log"), masked.pop("audit_log"))  # the second also holds the row of the first export
    assert len(own[1]) > len(own[0]) > 0
    for table, rows in full.items():
        if isinstance(rows, list):
            assert [set(row) for row in masked[table]] == [set(row) for row in rows]
    [dead_letter] = masked["dead_letters"]
    assert dead_letter["error"] == {
        "error_type": "Refused",
        "error_message": "***",
        "failed_step": "nudge",
        "stack_trace": "***",
    }
    [transaction], [instance] = masked["transactions"], masked["instances"]
    assert transaction["order_id"] == clear_text("transactions", "order_id", "u-1")
    assert instance["variables"] == {"note": "***", "many": [{"deep": "***"}]}
    assert clear_text("instances", "reason", "u-1") == instance["reason"]


async def test_values_are_formatted_as_by_the_other_routes(
    api: Clients, database: Database, cipher: Cipher
) -> None:
    log = Log(database, cipher)
    person = await log.person()
    await log.write(bought(person, "29.53"), bought(person, 1000), click(person, "export"))
    await log.project()
    document = await export(api.admin, person)
    listed = (await api.admin.get(f"/users/{person}/transactions")).json()["data"]
    fields = listed[0].keys()
    held = [{name: row[name] for name in fields} for row in document["transactions"]]
    by_id = sorted(listed, key=lambda each: str(each["event_id"]))
    assert sorted(held, key=lambda each: str(each["event_id"])) == by_id
    timeline = (await api.admin.get(f"/users/{person}/events")).json()["data"]
    exported_events = {row["event_id"]: row for row in document["events"]}
    assert len(exported_events) == len(timeline) == 3
    for each in timeline:
        assert {name: exported_events[each["event_id"]][name] for name in each} == each
    [total] = document["purchase_totals"]
    assert (total["revenue"], total["purchases"]) == ("1029.53", 2)
    history = (await api.admin.get(f"/users/{person}/consents/history")).json()["data"]
    assert [{name: row[name] for name in history[0]} for row in document["consent_history"]] == history


async def test_many_pages_of_events_are_one_list_in_order_without_repeats(api: Clients) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-2")
    sent = [event(f"e-{number:04}", event_properties={"n": number}) for number in range(2 * exports.PAGE + 1)]
    for start in (0, exports.PAGE):
        await batch(api, *sent[start : start + exports.PAGE])
    await batch(api, *sent[2 * exports.PAGE :], *[event(f"other-{number}", "u-2") for number in range(9)])
    held = (await export(api.admin))["events"]
    assert sorted(row["event_id"] for row in held) == [each["event_id"] for each in sent]
    assert sorted(row["event_properties"]["n"] for row in held) == list(range(len(sent)))
    positions = [(row["timestamp"], row["event_id"]) for row in held]
    assert positions == sorted(positions)


async def test_large_rows_are_read_in_small_pages(api: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    await add_user(api.admin)
    await batch(api, *[event(f"e-{n}", event_properties={"text": "x" * (n % 3) * 9000}) for n in range(9)])
    whole = (await export(api.admin))["events"]
    for most in (1, 9000, 20_000):
        monkeypatch.setattr(exports, "BYTES", most)
        assert (await export(api.admin))["events"] == whole


async def test_a_full_last_page_is_followed_by_none(api: Clients) -> None:
    await add_user(api.admin)
    await batch(api, *[event(f"e-{number}") for number in range(exports.PAGE)])
    assert len((await export(api.admin))["events"]) == exports.PAGE


async def test_a_custom_types_declaration_masks_its_events(api: Clients) -> None:
    await add_user(api.admin)
    schema = {"type": "object", "properties": {"level": {"type": "string"}, "note": {"type": "string"}}}
    declared = {"schema": schema, "pii": ["/note"], "dimensions": ["level"]}
    assert (await api.admin.put("/events/types/lesson.finish", json=declared)).status_code == 201
    await batch(api, event("e-1", event_properties={"level": "b2", "note": "secret"}), purchase("e-2"))
    rows = {row["event_id"]: row for row in (await export(api.operator))["events"]}
    assert rows["e-1"]["event_properties"] == {"level": "b2", "note": "***"}
    assert rows["e-1"]["dimensions"] == {"level": "b2"}
    assert rows["e-2"]["event_properties"] == {"order_id": "o-1", "amount": "19.99", "currency": "USD"}
    assert rows["e-2"]["location"] is None


async def test_an_export_of_a_person_without_other_rows(api: Clients) -> None:
    assert (await api.admin.post("/users", json=user("U.1_a:b-2", email="a@example.com"))).status_code == 201
    answer = await api.admin.get("/users/U.1_a:b-2/export")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == 'attachment; filename="U.1_a:b-2.json"'
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert {name for name, rows in document.items() if isinstance(rows, list) and rows} == {"audit_log"}
    assert [row["action"] for row in document["audit_log"]] == ["users.create", "users.export"]


async def test_an_unknown_or_erased_person_has_no_export(api: Clients, owner: Connection) -> None:
    assert_problem(await api.admin.get("/users/u-1/export"), 404, "user_not_found")
    assert_problem(await api.admin.get("/users/ada@example.com/export"), 404, "user_not_found")
    await add_user(api.admin)
    assert_problem(await api.integrator.get("/users/u-1/export"), 403, "forbidden")
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-1'")
    assert_problem(await api.admin.get("/users/u-1/export"), 410, "user_erased")


@pytest.fixture
async def new_table(owner: Connection, monkeypatch: pytest.MonkeyPatch, database: Database) -> AsyncIterator[str]:
    """A table that was declared after the others."""

    class Remark(SQLModel, table=True):
        __tablename__ = "remarks"

        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        remark_id: str = Field(sa_column=Column(Text, primary_key=True))
        remark: bytes | None = personal(Mask.WORDS)

    await owner.execute(
        """CREATE TABLE remarks (user_id text, remark_id text, remark bytea, PRIMARY KEY (user_id, remark_id));
           GRANT SELECT, INSERT ON remarks TO perennial_app"""
    )
    for module in (data_map, exports, filling):
        monkeypatch.setattr(module, "TABLES", (*TABLES, Remark))
    monkeypatch.setattr(data_map, "RETENTION_TYPES", {**data_map.RETENTION_TYPES, "remarks": "profiles"})
    monkeypatch.setitem(cast(dict[str, tuple[str, ...]], ROW_COLUMNS), "remarks", ("remark_id",))
    monkeypatch.setattr(data_map, "COMMON", {**data_map.COMMON, "remark_id": "an id of ours"})
    exports.tables.cache_clear()
    yield "remarks"
    monkeypatch.undo()
    exports.tables.cache_clear()
    await owner.execute("DROP TABLE remarks")
    SQLModel.metadata.remove(Remark.__table__)  # type: ignore[attr-defined]
    SQLModel._sa_registry._dispose_cls(Remark)


async def test_a_newly_declared_table_is_in_every_export(
    api: Clients, database: Database, owner: Connection, cipher: Cipher, new_table: str
) -> None:
    await add_user(api.admin)
    await fill(database, owner, cipher, "u-1", HERS)
    row = {"user_id": "u-1", "remark_id": "clear-u-1-remarks-remark_id", "remark": f"{HERS}-remarks-remark"}
    assert (await export(api.admin))[new_table] == [row]
    assert (await export(api.operator))[new_table] == [{**row, "remark": "k" + "*" * (len(row["remark"]) - 1)}]
    fields = await owner.fetchval("SELECT fields FROM audit_log WHERE action = 'users.export' LIMIT 1")
    assert "remarks.remark" in fields


def test_every_exported_column_has_a_form_in_json_and_every_row_a_position() -> None:
    """Bytes in the clear have no form in JSON. An encrypted column has no lasting order."""
    for table in exports.tables():
        for column in table.columns:
            kind = table.model.__table__.columns[column]  # type: ignore[attr-defined]
            assert column in personal_columns(table.model) or kind.type.python_type is not bytes
        assert not {*table.order} & {*personal_columns(table.model)}
