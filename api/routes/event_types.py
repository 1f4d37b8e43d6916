"""`/events/types`: what is known of event types."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.dependencies import InTransaction
from api.guard import GuardedRoute, allow
from api.responses import json_response
from models.errors import FieldError, InvalidContent
from models.rules.event_types import NAME, NAME_LENGTH, EventType, define
from models.rules.taxonomy import STANDARD
from models.vocabulary import Role
from models.wire.events import EventTypeInput, EventTypes, EventTypeView
from store import event_types
from store.event_types import StoredEventType

router = APIRouter(route_class=GuardedRoute, tags=["events"])


@router.get("/events/types", response_model=EventTypes)
@allow(Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR)
async def list_event_types(connection: InTransaction) -> Response:
    """List the declared event types; undeclared ones are taken with any properties."""
    custom = await event_types.list_all(connection)
    views = [_view(standard) for standard in STANDARD.values()] + [_stored_view(stored) for stored in custom]
    return json_response({"data": views})


@router.put(
    "/events/types/{event_type}",
    response_model=EventTypeView,
    responses={201: {"model": EventTypeView, "description": "It is new."}},
)
@allow(Role.ADMIN)
async def declare_event_type(
    event_type: Annotated[str, Path(description="`category.action`", examples=["lesson.finish"])],
    body: EventTypeInput,
    connection: InTransaction,
) -> Response:
    """Define a custom event type, or change it; that holds for the next event in every process."""
    if len(event_type) > NAME_LENGTH or NAME.fullmatch(event_type) is None:
        raise _refused("invalid_event_type", "must be category.action, in lower case with underscores")
    if event_type in STANDARD:
        raise _refused("read_only", "is a standard type, which can't be changed")
    declared = define(event_type, body.description, body.json_schema, body.pii, body.dimensions)
    stored, fresh = await event_types.declare(connection, declared)
    return json_response(_stored_view(stored), 201 if fresh else 200)


def _refused(code: str, message: str) -> InvalidContent:
    return InvalidContent([FieldError("/path/event_type", code, message)])


def _stored_view(stored: StoredEventType) -> dict[str, object]:
    return {**_view(stored.declared), "changed_at": stored.changed_at}


def _view(declared: EventType) -> dict[str, object]:
    return {
        "event_type": declared.event_type,
        "description": declared.description,
        "schema": declared.schema,
        "pii": list(declared.pii),
        "dimensions": list(declared.dimensions),
        "standard": declared.standard,
        "changed_at": None,
    }
