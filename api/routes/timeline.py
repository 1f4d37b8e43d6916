"""`/users/{user_id}/events` and `/events/{event_id}`: reads stored events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import TypeAdapter, ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf, UserIdInPath
from api.guard import GuardedRoute, allow, audited
from api.masking import event_body_for
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import (
    EventNotFoundError,
    FieldError,
    InvalidContentError,
    UserErasedError,
    UserNotFoundError,
)
from models.rules.event_types import EventType
from models.schemas.events import EventId, EventPage, EventTypePattern, EventView
from models.schemas.fields import Timestamp
from models.vocabulary import Basis, Role
from store.events import timeline
from store.events.timeline import EventFilter, StoredEvent
from store.events.types import EventTypes
from store.pacing import each

router = APIRouter(route_class=GuardedRoute, tags=["events"])


class _EventIdConvertor(Convertor[str]):
    """Any id, also with slashes, but not the paths below `/events` that have other methods."""

    regex = "(?!batch$|types(?:/|$)).+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("event_id", _EventIdConvertor())

_LIST = "user-events"
_EVENT_ID: TypeAdapter[str] = TypeAdapter(EventId)


@router.get(
    "/users/{user_id}/events", response_model=EventPage, responses=problems(UserNotFoundError, UserErasedError)
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("events.list")
async def list_user_events(
    user_id: UserIdInPath,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    page: PageQuery,
    audit: AuditOf,
    event_type: Annotated[
        EventTypePattern | None, Query(description="Only events of this type or category (`transaction.*`).")
    ] = None,
    since: Annotated[Timestamp | None, Query(description="Only events of this time or later.")] = None,
    until: Annotated[Timestamp | None, Query(description="Only events before this time.")] = None,
) -> Response:
    """List a user's events, newest first. Only an admin gets personal values without masks."""
    if since is not None and until is not None and since > until:
        raise InvalidContentError([FieldError("/query/until", "before_since", "must not be before since")])
    rows = await timeline.list_of_user(
        connection,
        resources.cipher,
        user_id,
        EventFilter(event_type, since, until),
        limit=page.rows_to_fetch,
        before=page.position(_LIST, datetime, str),
    )
    data, pagination = page.rows_and_pagination(_LIST, rows, lambda row: (row.timestamp, row.event_id))
    audit.note(fields=EventView.model_fields, details={"shown": len(data)})
    types = await EventTypes().find(connection, {row.event_type for row in data})
    views = await each(lambda row: _view(caller.role, row, types.get(row.event_type)), data)
    return json_response(EventPage(data=views, pagination=pagination))


@router.get(
    "/events/{event_id:event_id}",
    response_model=EventView,
    responses=problems(EventNotFoundError, UserErasedError),
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("events.read")
async def get_event(
    event_id: Annotated[str, Path(description="As it was sent.", examples=["e-1"])],
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    audit: AuditOf,
) -> Response:
    """Get an event. Only an admin gets personal values without masks."""
    try:
        _EVENT_ID.validate_python(event_id)
    except ValidationError:
        raise EventNotFoundError from None
    stored = await timeline.find(connection, resources.cipher, event_id)
    audit.note(stored.user_id, fields=EventView.model_fields)
    types = await EventTypes().find(connection, {stored.event_type})
    return json_response(_view(caller.role, stored, types.get(stored.event_type)))


def _view(role: Role, stored: StoredEvent, declared: EventType | None) -> EventView:
    body = event_body_for(role, stored.body, declared)
    return EventView(
        event_id=stored.event_id,
        user_id=stored.user_id,
        event_type=stored.event_type,
        timestamp=stored.timestamp,
        session_id=stored.session_id,
        event_properties=body.get("event_properties"),
        device_info=body.get("device_info"),
        location=body.get("location"),
        referrer=body.get("referrer"),
        historical=stored.historical,
        received_at=stored.received_at,
        basis=Basis(stored.basis),
    )
