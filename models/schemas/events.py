"""Schemas of `/events` and `/event-types`. Pydantic's core checks events: a few microseconds an item."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, StrictBool, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from models.rules.event_types import CATEGORY, MAX_ENTRIES, NAME, NAME_LENGTH
from models.rules.folding import WORKFLOW_SESSION
from models.rules.stages import STAGE_CHANGED
from models.schemas.common import Page, Problem
from models.schemas.fields import AnyTimestamp, PublicText, RequestSchema, ResponseSchema, UserId
from models.schemas.users import ItemError
from models.vocabulary import Basis

MAX_BATCH = 2000
MAX_ID = 128
MAX_REFERRER = 2048
MAX_REASON = 300
_NO_DOTS = r"(?s)^(?:[^.]|\.[^.]|\.\..)"
"""Not `.` and `..`, which clients remove from paths."""
_PRINTABLE = r"^(?:[^\p{C}\p{Z}]| )+$"


@dataclass(frozen=True)
class PatternString:
    """A string that matches a pattern, checked without a call into Python.

    An annotation may have several: the error is the one of the first that doesn't match."""

    pattern: str
    code: str
    message: str
    max_length: int | None = None
    """None allows any length, also 0. Pydantic measures a string before it matches the pattern."""
    examples: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        shortest = None if self.max_length is None else 1
        formed = core_schema.str_schema(pattern=self.pattern, min_length=shortest, max_length=self.max_length)
        return core_schema.chain_schema(
            [
                handler(source),
                core_schema.custom_error_schema(formed, self.code, custom_error_message=self.message),
            ]
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if self.max_length is None:
            return handler(core)
        schema: JsonSchemaValue = {"type": "string", "minLength": 1, "maxLength": self.max_length}
        if self.examples:
            schema["examples"] = list(self.examples)
        return schema


class UncheckedObject:
    """A JSON object whose content :mod:`models.rules.ingest` checks."""

    # not copied as pydantic's dict schema would do: that would cost more than all other checks
    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            core_schema.is_instance_schema(dict), "invalid_type", custom_error_message="must be an object"
        )

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "object", "additionalProperties": True}


JsonObject = Annotated[dict[str, Any], UncheckedObject()]
_ID_FORM = "must be 1 to 128 printable characters and neither . nor .., such as "


def _not_beginning_with(prefix: str) -> str:
    """A pattern without look-ahead for strings that don't begin with ``prefix``."""
    parts = (f"{re.escape(prefix[:at])}(?:[^{prefix[at]}]|$)" for at in range(len(prefix)))
    return f"(?s)^(?:{'|'.join(parts)})"


def _not(word: str) -> str:
    """A pattern without look-ahead for strings other than ``word``."""
    parts = (f"{re.escape(word[:at])}(?:[^{re.escape(word[at])}]|$)" for at in range(len(word)))
    return f"(?s)^(?:{'|'.join(parts)}|{re.escape(word)}.)"


EventId = Annotated[
    str,
    PatternString(_PRINTABLE, "invalid_event_id", _ID_FORM + "e-1", MAX_ID, ("e-1",)),
    PatternString(_NO_DOTS, "invalid_event_id", _ID_FORM + "e-1"),
]
SessionId = Annotated[
    str,
    PatternString(_PRINTABLE, "invalid_session_id", _ID_FORM + "s-1", MAX_ID, ("s-1",)),
    PatternString(_NO_DOTS, "invalid_session_id", _ID_FORM + "s-1"),
    PatternString(
        _not_beginning_with(WORKFLOW_SESSION),
        "session_id_reserved",
        f"must not begin with {WORKFLOW_SESSION} as the platform's own sessions do; send an id such as s-1",
    ),
]
EventTypeName = Annotated[
    str,
    PatternString(
        f"^(?:{NAME.pattern})$",
        "invalid_event_type",
        "must be category.action, in lower case with underscores, like transaction.cart_add",
        NAME_LENGTH,
        ("transaction.cart_add",),
    ),
]
SentEventType = Annotated[
    EventTypeName,
    PatternString(
        _not(STAGE_CHANGED),
        "event_type_reserved",
        f"must not be {STAGE_CHANGED}, which the platform records: send the stage with PATCH /users/{{user_id}}",
    ),
]


EventTypePattern = Annotated[
    str,
    PatternString(
        rf"^(?:{NAME.pattern}|{CATEGORY.pattern}\.\*)$",
        "invalid_event_type",
        "must be category.action or category.*, in lower case with underscores, like transaction.*",
        NAME_LENGTH,
        ("transaction.cart_add", "transaction.*"),
    ),
]


class EventInput(RequestSchema):
    """A customer event."""

    event_id: EventId = Field(description="Unique among all events for as long as events are kept.")
    user_id: UserId
    event_type: SentEventType
    timestamp: AnyTimestamp = Field(
        description="When it happened: at most 24 h ahead, and within the retention period of events."
    )
    session_id: SessionId
    event_properties: JsonObject | None = Field(default=None, description="Must match the event type's schema.")
    device_info: JsonObject | None = None
    location: JsonObject | None = None
    referrer: Annotated[str, Field(max_length=MAX_REFERRER)] | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """The body that is encrypted: those of the last four fields that were sent."""
        found: dict[str, Any] = {}
        if self.event_properties is not None:
            found["event_properties"] = self.event_properties
        if self.device_info is not None:
            found["device_info"] = self.device_info
        if self.location is not None:
            found["location"] = self.location
        if self.referrer is not None:
            found["referrer"] = self.referrer
        return found


EVENTS: TypeAdapter[list[EventInput]] = TypeAdapter(list[EventInput])
"""Checks all items of a batch in one call. The location of an error begins with the item's index."""


class EventBatch(RequestSchema):
    """Up to 2,000 events. The API checks each item separately and stores the valid ones."""

    items_field: ClassVar[str] = "events"

    events: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)] = Field(
        json_schema_extra={"items": {"$ref": "#/components/schemas/EventInput"}}
    )
    historical: StrictBool = Field(
        default=False, description="Old data: updates profiles and analytics, and starts no workflow."
    )


class EventAnswer(ResponseSchema):
    """The event is stored durably, by this request or by an earlier one."""

    event_id: str
    status: str = Field(json_schema_extra={"enum": ["accepted", "duplicate"]})


class EventResult(ResponseSchema):
    """The result for one item."""

    index: int
    event_id: str | None = Field(description="Null if the item has no valid one.")
    status: str = Field(json_schema_extra={"enum": ["accepted", "duplicate", "rejected"]})
    errors: list[ItemError]


class EventBatchAnswer(ResponseSchema):
    """The results for a batch."""

    accepted: int
    duplicates: int
    rejected: int
    results: list[EventResult]


class RejectedEventBatch(Problem, EventBatchAnswer):
    """The problem of a batch whose events were all rejected, with the results."""


class EventView(ResponseSchema):
    """A stored event. Every role except admin sees personal values masked."""

    event_id: str
    user_id: str
    event_type: str
    timestamp: datetime
    session_id: str
    event_properties: dict[str, Any] | None
    device_info: dict[str, Any] | None
    location: dict[str, Any] | None
    referrer: str | None
    historical: bool
    received_at: datetime
    basis: Basis = Field(
        description="`consent` if the person had consented when it was stored, else the basis of its type."
    )


EventPage = Page[EventView]


class PoisonEventView(ResponseSchema):
    """An event that a consumer failed to apply several times and then skipped."""

    poison_id: str
    consumer: str = Field(description="The consumer that failed.", examples=["projector"])
    event_id: str
    user_id: str
    timestamp: datetime = Field(description="The event's timestamp.")
    tries: int
    error_type: str
    status: str = Field(json_schema_extra={"enum": ["open", "replayed", "discarded"]})
    set_aside_at: datetime


JsonSchema = Annotated[dict[str, Any], Field(json_schema_extra={"type": "object"})]


class EventTypeInput(RequestSchema):
    """A custom event type, or the legal basis of a standard one."""

    description: Annotated[str, Field(max_length=1000), PublicText] = ""
    json_schema: JsonSchema = Field(
        default_factory=dict,
        alias="schema",
        description="JSON Schema (2020-12) of `event_properties`, without references to other documents. "
        "Required, except for a standard type.",
    )
    pii: list[str] = Field(
        default_factory=list,
        max_length=MAX_ENTRIES,
        description="JSON pointers into `event_properties`, to personal values.",
    )
    dimensions: list[str] = Field(
        default_factory=list,
        max_length=MAX_ENTRIES,
        description="Names of properties that analytics may group by; never personal ones.",
    )
    basis: Annotated[Basis, Field(strict=False)] = Field(
        default=Basis.CONSENT,
        description="Why events of the type may be stored. `consent`: only with the person's consent "
        "`data_collection`. The others: also without it, and then for transactions and service workflows alone.",
    )
    basis_reason: Annotated[str, Field(max_length=MAX_REASON), PublicText] | None = Field(
        default=None,
        description="Why the basis isn't `consent`; then required.",
        examples=["Invoices of the subscription are paid under its contract."],
    )


class EventTypeView(ResponseSchema):
    """A declared event type."""

    event_type: str
    description: str
    json_schema: JsonSchema = Field(serialization_alias="schema")
    pii: list[str]
    dimensions: list[str]
    basis: Basis
    basis_reason: str | None
    standard: bool
    version: int | None = Field(description="1, 2, ...; null like `changed_at`.")
    changed_at: datetime | None = Field(description="Null for a standard type whose basis nobody has declared.")


class EventTypeVersionView(ResponseSchema):
    """A declaration as a `PUT` made it."""

    version: int
    changed_at: datetime
    actor: str = Field(
        description="The id of the API key; `system:migration` for a declaration from before versions were kept."
    )
    event_type: str
    description: str
    json_schema: JsonSchema = Field(serialization_alias="schema")
    pii: list[str]
    dimensions: list[str]
    basis: Basis
    basis_reason: str | None


def usable_event_id(item: object) -> str | None:
    """The id of a rejected item; None if the response can't repeat it."""
    event_id = item.get("event_id") if isinstance(item, Mapping) else None
    usable = isinstance(event_id, str) and 0 < len(event_id) <= MAX_ID and event_id.isprintable()
    return event_id if usable else None
