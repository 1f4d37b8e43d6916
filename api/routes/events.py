"""`/events`: ingest, one by one and in batches, and `/users/{user_id}/events`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dependencies import Caller, InTransaction, ResourcesOf, UserIdInPath
from api.event_batches import batch_response, check_items, explained
from api.events import event_view
from api.exchange import exchange_of
from api.guard import GuardedRoute, allow
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import (
    ConsentRequired,
    EventIdConflict,
    InvalidContent,
    PerennialError,
    UserErased,
    UserNotFound,
    UserUnknown,
)
from models.rules.ingest import CONSENT_REQUIRED, EVENT_ID_CONFLICT, USER_ERASED, USER_UNKNOWN, Outcome
from models.vocabulary import Role
from models.wire.events import EventAnswer, EventBatch, EventBatchAnswer, EventInput, EventPage
from store import events
from store.event_types import EventTypes

router = APIRouter(route_class=GuardedRoute, tags=["events"])

_LIST = "user-events"
_REFUSALS: Mapping[str, Callable[[], PerennialError]] = {
    CONSENT_REQUIRED.errors[0].code: lambda: ConsentRequired("The person hasn't consented to 'data_collection'."),
    USER_UNKNOWN.errors[0].code: UserUnknown,
    USER_ERASED.errors[0].code: UserErased,
    EVENT_ID_CONFLICT.errors[0].code: EventIdConflict,
}
"""Refusals that are an answer of their own; all others are failures of validation."""


@router.post(
    "/events",
    status_code=202,
    response_model=EventAnswer,
    responses=problems(ConsentRequired, UserErased, EventIdConflict, UserUnknown),
)
@allow(Role.INTEGRATOR)
async def ingest_event(body: EventInput, resources: ResourcesOf) -> Response:
    """Take an event. The answer says that it is on disk; profiles follow within a second.

    The same `event_id` again is a duplicate and changes nothing.
    """
    outcome = explained(await resources.ingest.take_one(body), body)
    if outcome.status == "rejected":
        raise _refusal(outcome)
    return json_response({"event_id": body.event_id, "status": outcome.status}, 202)


def _refusal(outcome: Outcome) -> PerennialError:
    known = _REFUSALS.get(outcome.errors[0].code)
    return known() if known else InvalidContent(outcome.errors)


@router.post("/events/batch", status_code=202, response_model=EventBatchAnswer)
@allow(Role.INTEGRATOR)
async def ingest_events(body: EventBatch, request: Request, resources: ResourcesOf) -> Response:
    """Take up to 2,000 events, in one transaction.

    Each is judged on its own: a rejected one costs no other. 422, with the same members, when none could be taken.
    """
    valid, refused = check_items(body.events)
    outcomes = await resources.ingest.take(valid, historical=body.historical)
    taken = map(explained, outcomes, valid)
    judged = [refused.get(index) or next(taken) for index in range(len(body.events))]
    return batch_response(body.events, judged, exchange_of(request).request_id)


@router.get("/users/{user_id}/events", response_model=EventPage, responses=problems(UserNotFound, UserErased))
@allow(Role.OPERATOR, Role.ANALYST)
async def list_user_events(
    user_id: UserIdInPath, connection: InTransaction, caller: Caller, resources: ResourcesOf, page: PageQuery
) -> Response:
    """List a user's events, the newest first; masked for all but admins."""
    position = page.after(_LIST, datetime, str)
    rows = await events.list_of_user(
        connection,
        resources.sealer,
        user_id,
        limit=page.fetch,
        before=(position[0], position[1]) if position else None,
    )
    data, pagination = page.cut(_LIST, rows, lambda row: (row.timestamp, row.event_id))
    types = await EventTypes().find(connection, {row.event_type for row in data})
    views = [event_view(caller.role, row, types.get(row.event_type)) for row in data]
    return json_response(EventPage(data=views, pagination=pagination))
