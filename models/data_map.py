"""The data map: every table and column, what it holds of people, and how that is kept, shown and let go.

Read from the tables' own declarations (:mod:`models.personal`) and written to `docs/data-map.md` by
`perennial data-map`; `make check` fails where the page is out of date, or where a table or a text in the clear is
one that nobody has said a word about. An export of a person reads the columns that :func:`exported` names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Column, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import SQLModel

from models.personal import Mask, columns_of, personal_columns
from models.tables.registry import TABLES

KEPT_AS: Mapping[str, str | None] = {
    "users": "profiles",
    "data_keys": "profiles",
    "consents": "profiles",
    "consent_history": "profiles",
    "sessions": "events",
    "transactions": "transactions",
    "user_activity": "profiles",
    "feature_usage": "profiles",
    "purchase_totals": "profiles",
    "events": "events",
    "event_ids": "events",
    "poison_events": "events",
    "redactions": "profiles",
    "instances": "execution_logs",
    "steps": "execution_logs",
    "attempts": "execution_logs",
    "dead_letters": "execution_logs",
    "callbacks": "webhook_deliveries",
    "event_waits": "execution_logs",
    "temporal_outbox": "execution_logs",
    "messages": "messages",
    "trigger_windows": "profiles",
    "idempotent_answers": "idempotency_answers",
    "audit_log": "audit",
    "api_keys": None,
    "rate_windows": None,
    "workflow_settings": None,
    "event_types": None,
    "log_generation": None,
    "log_cursors": None,
    "retention_periods": None,
    "retention_runs": None,
    "retention_results": None,
    "audit_checkpoints": None,
}
"""By table, the data type whose retention it falls under; None for what belongs to the installation."""

WHOSE: Mapping[str, str] = {
    "data_keys": "subject",
    "idempotent_answers": "subject",
    "steps": "instance_id",
    "attempts": "instance_id",
}
"""The column that says whose a row is, where it isn't `user_id`; an instance is its user's."""

USER_ID = "pseudonym: refused where it looks like an e-mail address"
OURS = "an id of ours"
WORD = "a word of ours"
KEY_ID = "the id of an API key"
TYPE = "a declared name"

COMMON: Mapping[str, str] = {
    "user_id": USER_ID,
    "instance_id": OURS,
    "workflow_id": "a workflow's name",
    "run_id": "Temporal's id of a run",
    "step": "a step's name",
    "current_step": "a step's name",
    "status": WORD,
    "purpose": WORD,
    "event_id": "the caller's id of an event",
    "event_type": TYPE,
    "session_id": "the caller's id of a session",
    "error_type": "an exception's class",
    "currency": "ISO 4217",
    "consumer": WORD,
    "kind": WORD,
    "key_id": KEY_ID,
}
"""What texts of these names hold, in whatever table."""

IN_THE_CLEAR: Mapping[str, str] = {
    "users.email_index": "keyed digest of the address, for lookups",
    "users.account_status": WORD,
    "users.lifecycle_stage": WORD,
    "users.country": "ISO 3166, a standard dimension",
    "users.privacy_preferences": "true or false by attribute",
    "users.subscription_tier": "a plan's name, a dimension",
    "data_keys.subject": USER_ID,
    "data_keys.wrapped": "the data key, encrypted by a key-encryption key",
    "consent_history.source": "the form or system where it was said",
    "consent_history.policy_version": "a policy's version",
    "consent_history.legal_basis": WORD,
    "consent_history.actor": KEY_ID,
    "api_keys.name": "what the key is for",
    "api_keys.role": WORD,
    "api_keys.hash": "digest of the key",
    "idempotent_answers.idempotency_key": "keyed digest of the header",
    "idempotent_answers.fingerprint": "keyed digest of the request",
    "idempotent_answers.subject": USER_ID,
    "idempotent_answers.headers": "`Location`, `ETag`, `Content-Type`",
    "instances.started_by": KEY_ID,
    "instances.reason": "a word of the workflow's, or an event's type",
    "instances.replaced_runs": "Temporal's ids of runs",
    "instances.trigger_event_id": "the caller's id of an event",
    "dead_letters.dead_letter_id": OURS,
    "dead_letters.failed_step": "a step's name",
    "messages.message_id": OURS,
    "messages.channel": WORD,
    "messages.reason": WORD,
    "messages.template": "a template's name",
    "events.dimensions": "what the event type declares as dimensions, country and kind of device",
    "event_types.description": "an admin's words on the type",
    "event_types.json_schema": "the type's schema",
    "event_types.pii": "pointers to what is personal",
    "event_types.dimensions": "names of properties",
    "poison_events.poison_id": OURS,
    "redactions.after_event_id": "the caller's id of an event",
    "retention_periods.data_type": WORD,
    "retention_periods.changed_by": KEY_ID,
    "retention_runs.run_id": OURS,
    "retention_runs.requested_by": f"{KEY_ID}, or the platform",
    "retention_runs.data_types": "types of data",
    "retention_runs.failed": "types of data",
    "retention_results.run_id": OURS,
    "retention_results.data_type": WORD,
    "retention_results.part": "a table, or a partition",
    "retention_results.action": WORD,
    "audit_log.actor": f"{KEY_ID}, or what the platform did",
    "audit_log.role": WORD,
    "audit_log.action": WORD,
    "audit_log.subjects": "user ids",
    "audit_log.fields": "names of attributes",
    "audit_log.request_id": "ours, or the caller's",
    "audit_log.outcome": WORD,
    "audit_log.details": "counts, codes and ids of ours",
    "audit_checkpoints.digest": "digest of an hour's rows",
    "audit_checkpoints.previous": "keyed digest of the checkpoints before",
    "audit_checkpoints.head": "keyed digest of all checkpoints so far",
    "audit_checkpoints.key_check": "check value of a key",
    "feature_usage.feature": "a dimension of `engagement.feature_click`",
}
"""What every other text, document and string of bytes in the clear holds: why it may be there."""

_FREE = (Text, JSONB, ARRAY, LargeBinary)
_INTERNAL = frozenset({"data_keys", "event_ids", "event_waits", "temporal_outbox", "poison_events"}) | frozenset(
    {"callbacks", "idempotent_answers", "redactions"}
)
"""Tables that tell nothing of a person that another one doesn't; an export passes them over. What they have beside
(addresses and secrets of callbacks) is of whoever sent it."""
_INTERNAL_COLUMNS = frozenset(
    {"users.email_index", "events.shard", "events.generation", "events.xid"}
) | frozenset({"events.sequence", "audit_log.xid", "audit_log.subjects"})
"""Columns that are the platform's own, or name other people, as the subjects of a look at the audit log do."""
_MASKS: Mapping[Mask, str] = {
    Mask.EMAIL: "`a**@e******.com`",
    Mask.WORDS: "`A** L*******`",
    Mask.DATE: "`****-**-**`",
    Mask.ALL: "`***`",
    Mask.TEXTS: "every text but words of ours",
    Mask.EVENT: "as the event type declares",
    Mask.ANSWERED: "as it was answered",
}


class UndeclaredError(Exception):
    """A table or column of which nobody has said what it holds; the text says where to say it."""


@dataclass(frozen=True)
class ColumnEntry:
    """One line of the map."""

    column: str
    holds: str
    encrypted: bool
    mask: str
    exported: bool


@dataclass(frozen=True)
class TableEntry:
    """One table of the map; ``whose`` is the column that says whose a row is, None where it is nobody's."""

    table: str
    kept_as: str | None
    whose: str | None
    columns: tuple[ColumnEntry, ...]


def data_map() -> list[TableEntry]:
    """The whole map; raises :class:`UndeclaredError`."""
    return [_table(table) for table in TABLES]


def exported() -> dict[str, list[str]]:
    """The columns that an export of a person reads, by table: it holds all of them, and no others
    (:mod:`store.exports`)."""
    found = {entry.table: [each.column for each in entry.columns if each.exported] for entry in data_map()}
    return {table: columns for table, columns in found.items() if columns}


def _table(table: type[SQLModel]) -> TableEntry:
    columns = columns_of(table)
    name = str(table.__tablename__)
    if name not in KEPT_AS:
        raise UndeclaredError(
            f"The table '{name}' is new: say in models/data_map.py (KEPT_AS) under which retention it falls."
        )
    whose = WHOSE.get(name) or next((each.name for each in columns if each.name == "user_id"), None)
    shown = whose is not None and name not in _INTERNAL
    entries = tuple(_column(table, each, exported=shown) for each in columns)
    return TableEntry(name, KEPT_AS[name], whose, entries)


def _column(table: type[SQLModel], column: Column[object], *, exported: bool) -> ColumnEntry:
    place = f"{table.__tablename__}.{column.name}"
    declared = personal_columns(table).get(column.name)
    exported = exported and place not in _INTERNAL_COLUMNS
    if declared is not None:
        mask = "shown" if declared.mask is None else _MASKS[declared.mask]
        return ColumnEntry(column.name, "personal", encrypted=True, mask=mask, exported=exported)
    return ColumnEntry(column.name, _holds(place, column), encrypted=False, mask="", exported=exported)


def _holds(place: str, column: Column[object]) -> str:
    """What a column in the clear holds; raises :class:`UndeclaredError` where nobody has said."""
    said = IN_THE_CLEAR.get(place) or COMMON.get(column.name)
    if said is None and isinstance(column.type, _FREE):
        raise UndeclaredError(
            f"{place} is kept in the clear and may hold anything: declare it with models.personal.personal(), or "
            "say in models/data_map.py (IN_THE_CLEAR) what it holds."
        )
    return said or "a number, a time, or true or false"


_HEAD = """# The data map

<!-- Written by `perennial data-map`; `make check` compares it with the tables. -->

What is kept of people, column by column, read from the declarations on the tables (`models/personal.py`).

- What is declared personal is encrypted with the person's data key (AES-256-GCM, bound to person, table and
  column), and comes masked for every role but admin (`api/masking.py`, ADR 0015).
- What an event type declares as a dimension, and the ids, times and numbers that analytics counts, are in the
  clear. No other text may be, unless `models/data_map.py` says what it holds.
- Retention types are those of `/retention/{data_type}`. *Export* says what `GET /users/{id}/export` holds: it
  is built from these declarations ([api.md](api.md)).
"""


def page() -> str:
    """The map as a page of the documentation, in Markdown."""
    return "\n".join([_HEAD, *(_section(entry) for entry in data_map())])


def _section(entry: TableEntry) -> str:
    kept = f"Retention: `{entry.kept_as}`." if entry.kept_as else "Belongs to the installation; no retention."
    whose = f" A row is the person's whom `{entry.whose}` names." if entry.whose else ""
    return "\n".join((f"## {entry.table}", "", kept + whose, "", *_rows(entry), ""))


def _rows(entry: TableEntry) -> Iterator[str]:
    yield "| column | holds | encrypted | masked | export |"
    yield "|---|---|---|---|---|"
    for each in entry.columns:
        encrypted, exported = ("yes" if flag else "" for flag in (each.encrypted, each.exported))
        yield f"| `{each.column}` | {each.holds} | {encrypted} | {each.mask} | {exported} |"
