"""`/events/types`: the declared event types."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction
from api.guard import GuardedRoute, allow, audited, not_audited
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import EventTypeNotFoundError, FieldError, InvalidContentError
from models.rules.event_types import NAME, NAME_LENGTH, EventType, define
from models.rules.stages import STAGE_CHANGED
from models.rules.taxonomy import STANDARD
from models.schemas.common import Page
from models.schemas.events import EventTypeInput, EventTypeVersionView, EventTypeView
from models.vocabulary import Basis, Role
from store.events import types
from store.events.types import StoredEventType

router = APIRouter(route_class=GuardedRoute, tags=["events"])

TypeInPath = Annotated[str, Path(description="`category.action`", examples=["lesson.finish"])]

_LIST = "event-types"
_VERSIONS = "event-type-versions"
_NAME = "/path/event_type"
_BASIS = frozenset({"basis", "basis_reason"})
"""The fields that a standard type takes."""


@router.get("/events/types", response_model=Page[EventTypeView])
@allow(Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR)
@not_audited
async def list_event_types(connection: InTransaction, page: PageQuery) -> Response:
    """List the declared event types, the standard ones first. An undeclared type accepts any properties."""
    after = page.position(_LIST, str)
    rows = await types.page(connection, after=after[0] if after else None, limit=page.rows_to_fetch)
    data, pagination = page.rows_and_pagination(_LIST, rows, lambda row: (row.declared.event_type,))
    return json_response(Page[EventTypeView](data=[_view(row) for row in data], pagination=pagination))


@router.get("/events/types/{event_type}", response_model=EventTypeView, responses=problems(EventTypeNotFoundError))
@allow(Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR)
@not_audited
async def get_event_type(event_type: TypeInPath, connection: InTransaction) -> Response:
    """Get an event type as it holds for the next event."""
    return json_response(_view(await types.find(connection, event_type)))


@router.get(
    "/events/types/{event_type}/versions",
    response_model=Page[EventTypeVersionView],
    responses=problems(EventTypeNotFoundError),
)
@allow(Role.OPERATOR, Role.ANALYST)
@not_audited
async def list_event_type_versions(event_type: TypeInPath, connection: InTransaction, page: PageQuery) -> Response:
    """List all declarations of an event type, newest first. A version is never changed or removed."""
    before = page.position(_VERSIONS, int)
    rows = await types.versions(
        connection, event_type, before=before[0] if before else None, limit=page.rows_to_fetch
    )
    data, pagination = page.rows_and_pagination(_VERSIONS, rows, lambda row: (str(row.stored.version),))
    shown = [EventTypeVersionView(actor=row.actor, **_declaration(row.stored)) for row in data]
    return json_response(Page[EventTypeVersionView](data=shown, pagination=pagination))


@router.put(
    "/events/types/{event_type}",
    response_model=EventTypeView,
    responses={201: {"model": EventTypeView, "description": "The type is new."}},
)
@allow(Role.ADMIN)
@audited("event_types.change")
async def declare_event_type(
    event_type: TypeInPath,
    body: EventTypeInput,
    connection: InTransaction,
    caller: Caller,
    audit: AuditOf,
) -> Response:
    """Define or change a custom event type, or the legal basis of a standard one.

    It applies to the next event in every process. Stored events keep the basis and the dimensions with which they
    were stored. A change makes a version; an equal declaration changes nothing.
    """
    declared = _declared(event_type, body)
    if body.basis is not Basis.CONSENT and not (body.basis_reason or "").strip():
        raise _invalid("/basis_reason", "required", f"must say why the basis is '{body.basis}'")
    change = await types.declare(connection, declared, body.basis, body.basis_reason, actor=caller.key_id)
    audit.note(
        details={
            "event_type": event_type,
            "version": change.stored.version,
            "pii": len(declared.pii),
            "dimensions": len(declared.dimensions),
            "basis": body.basis.value,
            "basis_before": change.basis_before.value,
            "basis_reason": body.basis_reason,
        }
    )
    return json_response(_view(change.stored), 201 if change.is_new and not declared.standard else 200)


def _declared(event_type: str, body: EventTypeInput) -> EventType:
    """The type that a request declares; a standard one keeps all except its basis."""
    if len(event_type) > NAME_LENGTH or NAME.fullmatch(event_type) is None:
        raise _invalid(_NAME, "invalid_event_type", "must be category.action, in lower case with underscores")
    standard = STANDARD.get(event_type)
    if event_type == STAGE_CHANGED:
        raise _invalid(_NAME, "read_only", "is recorded by the platform, and never without consent")
    if standard is not None:
        if body.model_fields_set - _BASIS:
            raise _invalid(_NAME, "read_only", "is a standard type, which takes only basis and basis_reason")
        return standard
    if "json_schema" not in body.model_fields_set:
        raise _invalid("/schema", "required", "is required")
    return define(event_type, body.description, body.json_schema, body.pii, body.dimensions)


def _invalid(pointer: str, code: str, message: str) -> InvalidContentError:
    return InvalidContentError([FieldError(pointer, code, message)])


def _view(stored: StoredEventType) -> EventTypeView:
    return EventTypeView(standard=stored.declared.standard, **_declaration(stored))


def _declaration(stored: StoredEventType) -> dict[str, Any]:
    declared = stored.declared
    return {
        "event_type": declared.event_type,
        "description": declared.description,
        "json_schema": dict(declared.schema),
        "pii": list(declared.pii),
        "dimensions": list(declared.dimensions),
        "basis": stored.basis,
        "basis_reason": stored.basis_reason,
        "version": stored.version,
        "changed_at": stored.changed_at,
    }
