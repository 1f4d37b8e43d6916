"""`/events/types`: the declared event types."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.dependencies import AuditOf, InTransaction
from api.guard import GuardedRoute, allow, audited, not_audited
from api.pages import PageQuery
from api.responses import json_response
from models.errors import FieldError, InvalidContentError
from models.rules.event_types import NAME, NAME_LENGTH, EventType, define
from models.rules.taxonomy import STANDARD
from models.schemas.common import Page
from models.schemas.events import EventTypeInput, EventTypeView
from models.vocabulary import Role
from store.events import types
from store.events.types import StoredEventType

router = APIRouter(route_class=GuardedRoute, tags=["events"])

_LIST = "event-types"


@router.get("/events/types", response_model=Page[EventTypeView])
@allow(Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR)
@not_audited
async def list_event_types(connection: InTransaction, page: PageQuery) -> Response:
    """List the declared event types, the standard ones first. An undeclared type accepts any properties."""
    custom = await types.list_all(connection)
    views = [_view(standard) for standard in STANDARD.values()] + [_stored_view(stored) for stored in custom]
    rows = views[_start(views, page.position(_LIST, str)) :]
    data, pagination = page.rows_and_pagination(_LIST, rows[: page.rows_to_fetch], lambda view: (view.event_type,))
    return json_response(Page[EventTypeView](data=data, pagination=pagination))


def _start(views: Sequence[EventTypeView], after: tuple[str] | None) -> int:
    """The index at which a page begins, also if the type before it no longer exists."""
    if after is None:
        return 0
    [name] = after
    if name in STANDARD:
        return 1 + list(STANDARD).index(name)
    # Custom types follow the standard ones, in the order of their names.
    return sum(view.standard or view.event_type <= name for view in views)


@router.put(
    "/events/types/{event_type}",
    response_model=EventTypeView,
    responses={201: {"model": EventTypeView, "description": "The type is new."}},
)
@allow(Role.ADMIN)
@audited("event_types.change")
async def declare_event_type(
    event_type: Annotated[str, Path(description="`category.action`", examples=["lesson.finish"])],
    body: EventTypeInput,
    connection: InTransaction,
    audit: AuditOf,
) -> Response:
    """Define or change a custom event type. It applies to the next event in every process."""
    if len(event_type) > NAME_LENGTH or NAME.fullmatch(event_type) is None:
        raise _invalid("invalid_event_type", "must be category.action, in lower case with underscores")
    if event_type in STANDARD:
        raise _invalid("read_only", "is a standard type, which can't be changed")
    declared = define(event_type, body.description, body.json_schema, body.pii, body.dimensions)
    stored, fresh = await types.declare(connection, declared)
    audit.note(
        details={"event_type": event_type, "pii": len(declared.pii), "dimensions": len(declared.dimensions)}
    )
    return json_response(_stored_view(stored), 201 if fresh else 200)


def _invalid(code: str, message: str) -> InvalidContentError:
    return InvalidContentError([FieldError("/path/event_type", code, message)])


def _stored_view(stored: StoredEventType) -> EventTypeView:
    return _view(stored.declared, stored.changed_at)


def _view(declared: EventType, changed_at: datetime | None = None) -> EventTypeView:
    return EventTypeView(
        event_type=declared.event_type,
        description=declared.description,
        json_schema=dict(declared.schema),
        pii=list(declared.pii),
        dimensions=list(declared.dimensions),
        standard=declared.standard,
        changed_at=changed_at,
    )
