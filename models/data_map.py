"""The data map: for each column, its content, encryption, mask, retention and place in an export.

`perennial data-map` writes it to `docs/data-map.md` from the declarations on the tables (:mod:`models.personal`).
`make check` fails if the page is out of date, or if a table or an unencrypted text is not declared here. An export
of a person reads the columns of :func:`exported_columns`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Column, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import SQLModel

from models.personal import ROW_COLUMNS, Mask, columns_of, personal_columns
from models.tables.registry import TABLES

RETENTION_TYPES: Mapping[str, str | None] = {
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
    "temporal_outbox": "events",
    "rollup_deltas": None,
    "rollup_series": None,
    "rollup_hours": None,
    "rollup_sessions": None,
    "rollup_people": "events",
    "rollup_index": "events",
    "messages": "messages",
    "trigger_windows": "profiles",
    "decisions": "decisions",
    "idempotent_answers": "idempotency_answers",
    "audit_log": "audit",
    "api_keys": None,
    "replaced_secrets": None,
    "rate_windows": None,
    "workflow_settings": None,
    "event_types": None,
    "event_type_versions": None,
    "log_generation": None,
    "log_cursors": None,
    "retention_periods": None,
    "retention_runs": None,
    "retention_results": None,
    "audit_checkpoints": None,
}
"""By table: the data type whose retention deletes its rows; None for the installation's own data."""

OWNER_COLUMNS: Mapping[str, str] = {
    "data_keys": "subject",
    "idempotent_answers": "subject",
    "steps": "instance_id",
    "attempts": "instance_id",
}
"""By table: the column that identifies the user, if it isn't `user_id`. An instance belongs to its user."""

USER_ID = "a pseudonym; the API rejects e-mail addresses and telephone numbers"
PLATFORM_ID = "an id that the platform assigned"
WORD = "one of a fixed set of words"
KEY_ID = "the id of an API key"
TYPE = "a declared name"
KEY_DIGEST = "keyed digest of the values of the workflow's key, for lookups"
EVENT_ID = "the caller's id of an event; no e-mail address or telephone number"

COMMON: Mapping[str, str] = {
    "user_id": USER_ID,
    "instance_id": PLATFORM_ID,
    "workflow_id": "a workflow's name",
    "run_id": "Temporal's id of a run",
    "step": "a step's name",
    "current_step": "a step's name",
    "status": WORD,
    "purpose": WORD,
    "basis": "`consent`, `contract` or `legal_obligation`: why events may be stored",
    "event_id": EVENT_ID,
    "event_type": TYPE,
    "session_id": "the caller's id of a session; no e-mail address or telephone number",
    "error_type": "an exception's class",
    "currency": "ISO 4217",
    "consumer": WORD,
    "kind": WORD,
    "key_id": KEY_ID,
}
"""The content of unencrypted texts, by the name of a column in any table."""

PLAINTEXT_COLUMNS: Mapping[str, str] = {
    "users.email_index": "keyed digest of the e-mail address, for lookups",
    "users.account_status": WORD,
    "users.lifecycle_stage": WORD,
    "users.country": "ISO 3166 code, a standard dimension",
    "users.privacy_preferences": "true or false by attribute",
    "users.attribute_times": "times by attribute",
    "users.subscription_tier": "a plan's name: a word, a dimension",
    "data_keys.subject": USER_ID,
    "data_keys.wrapped": "the data key, encrypted by a key-encryption key",
    "consent_history.source": "the form or system where the consent was given: a word",
    "consent_history.policy_version": "version of the privacy policy: a word",
    "consent_history.legal_basis": WORD,
    "consent_history.actor": KEY_ID,
    "api_keys.name": "the key's purpose; no address or number of a person",
    "instances.bulk_id": PLATFORM_ID,
    "api_keys.roles": "words of a fixed set",
    "api_keys.hash": "digest of the key",
    "replaced_secrets.hash": "digest of an earlier secret of the key",
    "idempotent_answers.idempotency_key": "keyed digest of the header",
    "idempotent_answers.fingerprint": "keyed digest of the request",
    "idempotent_answers.subject": USER_ID,
    "idempotent_answers.headers": "`Location`, `ETag`, `Content-Type`",
    "instances.started_by": KEY_ID,
    "instances.reason": "a word that the workflow defines, or an event type",
    "instances.replaced_runs": "Temporal's ids of runs",
    "instances.trigger_event_id": EVENT_ID,
    "instances.trigger_event_type": TYPE,
    "decisions.reason": WORD,
    "decisions.first_event_id": EVENT_ID,
    "instances.waits_until": "names of steps, and times",
    "instances.problem": "a value of `problem`",
    "instances.key_digest": KEY_DIGEST,
    "trigger_windows.key_digest": KEY_DIGEST,
    "dead_letters.dead_letter_id": PLATFORM_ID,
    "dead_letters.failed_step": "a step's name",
    "messages.message_id": PLATFORM_ID,
    "messages.channel": WORD,
    "messages.reason": WORD,
    "messages.template": "a template's name",
    "events.dimensions": "the event type's dimensions that are words or short numbers, country and device type",
    "event_types.description": "an admin's text; no address or number of a person",
    "event_types.json_schema": "JSON Schema of the properties",
    "event_types.pii": "JSON pointers to personal properties",
    "event_types.dimensions": "names of properties",
    "event_types.basis_reason": "an admin's text; no address or number of a person",
    "event_type_versions.actor": KEY_ID,
    "event_type_versions.description": "an admin's text; no address or number of a person",
    "event_type_versions.json_schema": "JSON Schema of the properties",
    "event_type_versions.pii": "JSON pointers to personal properties",
    "event_type_versions.dimensions": "names of properties",
    "event_type_versions.basis_reason": "an admin's text; no address or number of a person",
    "event_waits.condition": WORD,
    "poison_events.poison_id": PLATFORM_ID,
    "redactions.after_event_id": EVENT_ID,
    "retention_periods.data_type": WORD,
    "retention_periods.changed_by": KEY_ID,
    "retention_periods.seal": "keyed digest of the audit log's period",
    "retention_runs.run_id": PLATFORM_ID,
    "retention_runs.requested_by": f"{KEY_ID}, or `system:retention`",
    "retention_runs.data_types": "types of data",
    "retention_runs.failed": "types of data",
    "retention_results.run_id": PLATFORM_ID,
    "retention_results.data_type": WORD,
    "retention_results.part": "a table, or a partition",
    "retention_results.action": WORD,
    "audit_log.actor": f"{KEY_ID}, or a job of the platform",
    "audit_log.role": WORD,
    "audit_log.action": WORD,
    "audit_log.subjects": "user ids",
    "audit_log.fields": "names of attributes",
    "audit_log.request_id": "from the platform or the caller; no telephone number",
    "audit_log.outcome": WORD,
    "audit_log.details": "counts, codes, ids that the platform assigned, and an admin's reason for a legal basis",
    "audit_checkpoints.digest": "digest of an hour's rows",
    "audit_checkpoints.previous": "head of the previous checkpoint",
    "audit_checkpoints.head": "keyed digest of all checkpoints so far",
    "audit_checkpoints.key_check": "check value of a key",
    "audit_checkpoints.permit_digest": "digest of the permit to delete an hour",
    "rollup_series.dimensions": "values of dimensions, country, device type and currency",
    "rollup_deltas.series": "numbers of series",
    "rollup_deltas.persons": "numbers that stand for people, for seconds",
    "rollup_deltas.times": "times of events",
    "rollup_deltas.flags": "flags of events",
    "rollup_deltas.money": "places of amounts",
    "rollup_deltas.amounts": "amounts of events",
    "rollup_deltas.sessions": "counts by hour",
    "rollup_people.dimension": WORD,
    "rollup_people.value": "a value of the dimension",
    "rollup_people.people": "a bitmap of numbers that stand for people",
    "rollup_index.entries": "numbers that stand for people, times of their events, and series",
    "feature_usage.feature": "a dimension of `engagement.feature_click`: a word",
}
"""The content of every other unencrypted text, JSON document and byte string."""

_FREE = (Text, JSONB, ARRAY, LargeBinary)
_INTERNAL = frozenset(
    {"data_keys", "event_ids", "event_waits", "temporal_outbox", "poison_events"}
    | {"callbacks", "idempotent_answers", "redactions"}
)
"""Tables that an export omits: another table has the same personal data, or the data is the caller's, such as
addresses and secrets of callbacks."""
_INTERNAL_COLUMNS = frozenset(
    {
        "users.email_index",
        "users.writes",
        "users.person",
        "instances.key_digest",
        "trigger_windows.key_digest",
        "events.shard",
        "events.generation",
        "events.xid",
        "events.sequence",
        "audit_log.xid",
    }
    | {"audit_log.subjects"}  # names other people
)
_MASKS: Mapping[Mask, str] = {
    Mask.EMAIL: "`a**@e******.com`",
    Mask.WORDS: "`A** L*******`",
    Mask.DATE: "`****-**-**`",
    Mask.WORD: "`***`, unless it is a word",
    Mask.ALL: "`***`",
    Mask.TEXTS: "every text except ids and fixed words",
    Mask.EVENT: "as the event type declares",
    Mask.ANSWERED: "as in the first answer",
}


class UndeclaredError(Exception):
    """A table or column is not declared. The text says where to declare it."""


@dataclass(frozen=True)
class ColumnEntry:
    column: str
    holds: str
    encrypted: bool
    mask: str
    exported: bool


@dataclass(frozen=True)
class TableEntry:
    """``owner_column`` identifies the user of a row; None for tables without users."""

    table: str
    retention_type: str | None
    owner_column: str | None
    columns: tuple[ColumnEntry, ...]


def data_map() -> list[TableEntry]:
    """All tables. Raises :class:`UndeclaredError`."""
    return [_table(table) for table in TABLES]


def exported_columns() -> dict[str, list[str]]:
    """The columns of an export of a person, by table (:mod:`store.exports`)."""
    found = {entry.table: [each.column for each in entry.columns if each.exported] for entry in data_map()}
    return {table: columns for table, columns in found.items() if columns}


def _table(table: type[SQLModel]) -> TableEntry:
    columns = columns_of(table)
    name = str(table.__tablename__)
    if name not in RETENTION_TYPES:
        raise UndeclaredError(
            f"The table '{name}' is new: declare in models/data_map.py (RETENTION_TYPES) what deletes its rows."
        )
    if personal_columns(table) and name not in ROW_COLUMNS:
        raise UndeclaredError(f"The table '{name}' is new: declare in models/personal.py (ROW_COLUMNS) its row.")
    owner = OWNER_COLUMNS.get(name) or next((each.name for each in columns if each.name == "user_id"), None)
    exported = owner is not None and name not in _INTERNAL
    entries = tuple(_column(table, each, exported=exported) for each in columns)
    return TableEntry(name, RETENTION_TYPES[name], owner, entries)


def _column(table: type[SQLModel], column: Column[object], *, exported: bool) -> ColumnEntry:
    qualified = f"{table.__tablename__}.{column.name}"
    declared = personal_columns(table).get(column.name)
    exported = exported and qualified not in _INTERNAL_COLUMNS
    if declared is not None:
        return ColumnEntry(column.name, "personal", True, _MASKS[declared.mask], exported)
    return ColumnEntry(column.name, _content(qualified, column), encrypted=False, mask="", exported=exported)


def _content(qualified: str, column: Column[object]) -> str:
    content = PLAINTEXT_COLUMNS.get(qualified) or COMMON.get(column.name)
    if content is None and isinstance(column.type, _FREE):
        raise UndeclaredError(
            f"{qualified} is not encrypted and may hold any text: declare it with models.personal.personal(), or "
            "describe its content in models/data_map.py (PLAINTEXT_COLUMNS)."
        )
    return content or "a number, a time, or true or false"


_HEAD = """# The data map

<!-- Written by `perennial data-map`; `make check` compares it with the tables. -->

Every column, from the declarations on the tables (`models/personal.py`).

- *Personal* columns are encrypted with the person's data key: AES-256-GCM, bound to person, table, column and row.
  Every role except admin sees them masked (`api/masking.py`, ADR 0015).
- Dimensions of event types are not encrypted, nor are ids, times and numbers that analytics counts. Any other
  unencrypted text must be described in `models/data_map.py`.
- A caller's unencrypted text is a *word*: a slug or a code of `A-Z a-z 0-9 _ . : / + -`. It is no e-mail address
  and no telephone, card or account number (`models/rules/personal_text.py`). The API refuses other texts with
  `..._is_personal`; other values of dimensions stay in the encrypted body.
- *Retention* names the type of `/retention/{data_type}` that deletes the rows.
- *Export* marks the columns of `GET /users/{id}/export`. The API builds the export from these declarations
  ([api.md](api.md)).
"""


def page() -> str:
    """The data map in Markdown."""
    return "\n".join([_HEAD, *(_section(entry) for entry in data_map())])


def _section(entry: TableEntry) -> str:
    kept = entry.retention_type
    retention = f"Retention: `{kept}`." if kept else "Data of the installation; no retention."
    owner = f" User: `{entry.owner_column}`." if entry.owner_column else ""
    return "\n".join((f"## {entry.table}", "", retention + owner, "", *_rows(entry), ""))


def _rows(entry: TableEntry) -> Iterator[str]:
    yield "| column | holds | encrypted | masked | export |"
    yield "|---|---|---|---|---|"
    for each in entry.columns:
        encrypted, exported = ("yes" if flag else "" for flag in (each.encrypted, each.exported))
        yield f"| `{each.column}` | {each.holds} | {encrypted} | {each.mask} | {exported} |"
