"""`/events`: ingest, one by one and in batches, and `/users/{user_id}/events`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf, UserIdInPath
from api.event_batches import batch_entry, batch_response, check_items, explained, single_entry
from api.events import event_view
from api.guard import GuardedRoute, allow, audited
from api.openapi import problems
from api.pages import PageQuery
from api.request_context import request_context_of
from api.responses import json_response
from models.errors import (
    ConsentRequiredError,
    EventIdConflictError,
    InvalidContentError,
    PerennialError,
    UserErasedError,
    UserNotFoundError,
    UserUnknownError,
)
from models.rules.ingest import CONSENT_REQUIRED, EVENT_ID_CONFLICT, USER_ERASED, USER_UNKNOWN, Outcome
from models.schemas.events import EventAnswer, EventBatch, EventBatchAnswer, EventInput, EventPage, EventView
from models.vocabulary import Role
from store.events import events
from store.events.types import EventTypes

router = APIRouter(route_class=GuardedRoute, tags=["events"])

_LIST = "user-events"
_REFUSALS: Mapping[str, Callable[[], PerennialError]] = {
    CONSENT_REQUIRED.errors[0].code: lambda: ConsentRequiredError(
        "The person hasn't consented to 'data_collection'."
    ),
    USER_UNKNOWN.errors[0].code: UserUnknownError,
    USER_ERASED.errors[0].code: UserErasedError,
    EVENT_ID_CONFLICT.errors[0].code: EventIdConflictError,
}
"""Refusals that are an answer of their own; all others are failures of validation."""


@router.post(
    "/events",
    status_code=202,
    response_model=EventAnswer,
    responses=problems(ConsentRequiredError, UserErasedError, EventIdConflictError, UserUnknownError),
)
@allow(Role.INTEGRATOR)
@audited("events.ingest")
async def ingest_event(body: EventInput, resources: ResourcesOf, audit: AuditOf) -> Response:
    """Take an event. The answer says that it is on disk; profiles follow within a second.

    The same `event_id` again is a duplicate and changes nothing.
    """
    outcome = explained(
        await resources.ingest.take_one(body, lambda outcome: single_entry(audit, body, outcome)), body
    )
    audit.settled()
    if outcome.status == "rejected":
        raise _refusal(outcome)
    return json_response({"event_id": body.event_id, "status": outcome.status}, 202)


def _refusal(outcome: Outcome) -> PerennialError:
    known = _REFUSALS.get(outcome.errors[0].code)
    return known() if known else InvalidContentError(outcome.errors)


@router.post("/events/batch", status_code=202, response_model=EventBatchAnswer)
@allow(Role.INTEGRATOR)
@audited("events.ingest")
async def ingest_events(body: EventBatch, request: Request, resources: ResourcesOf, audit: AuditOf) -> Response:
    """Take up to 2,000 events, in one transaction.

    Each is judged on its own: a rejected one costs no other. 422, with the same members, when none could be taken.
    """
    valid, refused = check_items(body.events)
    outcomes = await resources.ingest.take(
        valid,
        lambda outcomes: [batch_entry(audit, len(body.events), valid, outcomes)],
        historical=body.historical,
    )
    audit.settled()
    taken = map(explained, outcomes, valid)
    judged = [refused.get(index) or next(taken) for index in range(len(body.events))]
    return batch_response(body.events, judged, request_context_of(request).request_id)


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
) -> Response:
    """List a user's events, the newest first; masked for all but admins."""
    rows = await events.list_of_user(
        connection,
        resources.cipher,
        user_id,
        limit=page.fetch,
        before=page.after(_LIST, datetime, str),
    )
    data, pagination = page.cut(_LIST, rows, lambda row: (row.timestamp, row.event_id))
    audit.note(fields=EventView.model_fields, details={"shown": len(data)})
    types = await EventTypes().find(connection, {row.event_type for row in data})
    views = [event_view(caller.role, row, types.get(row.event_type)) for row in data]
    return json_response(EventPage(data=views, pagination=pagination))
