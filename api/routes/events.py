"""`/events` ingests single events and batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from api.dependencies import AuditOf, ResourcesOf
from api.guard import GuardedRoute, allow, audited
from api.ingest import Submission
from api.openapi import extended_problem, problems
from api.parsing import crowd_errors
from api.request_context import request_context_of
from api.responses import json_response, problem_response
from models.errors import (
    ConsentRequiredError,
    DataUnreadableError,
    EventIdConflictError,
    InvalidContentError,
    PerennialError,
    UserErasedError,
    UserUnknownError,
)
from models.rules.ingest import (
    CONSENT_REQUIRED,
    DATA_UNREADABLE,
    EVENT_ID_CONFLICT,
    USER_ERASED,
    USER_UNKNOWN,
    IngestResult,
    rejected,
)
from models.schemas.events import (
    EVENTS,
    EventAnswer,
    EventBatch,
    EventBatchAnswer,
    EventInput,
    RejectedEventBatch,
    usable_event_id,
)
from models.schemas.fields import UnusableItem
from models.schemas.validation import MOST_LISTED_ERRORS, item_errors
from models.vocabulary import Role
from store.pacing import Pace, each

router = APIRouter(route_class=GuardedRoute, tags=["events"])

_LIST = "user-events"
_TOGETHER = 100
"""Events to validate in one call."""
_NO_ERRORS: list[Any] = []
_REJECTIONS: Mapping[str, Callable[[], PerennialError]] = {
    CONSENT_REQUIRED.errors[0].code: lambda: ConsentRequiredError(
        "The person hasn't consented to 'data_collection'."
    ),
    USER_UNKNOWN.errors[0].code: UserUnknownError,
    USER_ERASED.errors[0].code: UserErasedError,
    EVENT_ID_CONFLICT.errors[0].code: EventIdConflictError,
    DATA_UNREADABLE.errors[0].code: DataUnreadableError,
}
"""The error for a rejected single event, by the rejection's code. Other codes become `validation_failed`."""


@router.post(
    "/events",
    status_code=202,
    response_model=EventAnswer,
    responses=problems(ConsentRequiredError, UserErasedError, EventIdConflictError, UserUnknownError),
)
@allow(Role.INTEGRATOR)
@audited("events.ingest")
async def ingest_event(body: EventInput, resources: ResourcesOf, audit: AuditOf) -> Response:
    """Store an event. 202 means that the event is on disk. Profiles include the event within a second.

    If the event is sent again with the same `event_id`, its status is `duplicate` and nothing changes.
    """
    outcome = await resources.ingest.store_one(body, audit)
    if outcome.errors:
        known = _REJECTIONS.get(outcome.errors[0].code)
        raise known() if known else InvalidContentError(outcome.errors)
    return json_response({"event_id": body.event_id, "status": outcome.status}, 202)


@router.post(
    "/events/batch",
    status_code=202,
    response_model=EventBatchAnswer,
    responses=extended_problem(InvalidContentError, RejectedEventBatch),
)
@allow(Role.INTEGRATOR)
@audited("events.ingest")
async def ingest_events(body: EventBatch, request: Request, resources: ResourcesOf, audit: AuditOf) -> Response:
    """Store up to 2,000 events in one transaction.

    Each event is validated separately, so a rejected event doesn't affect the others. If all events are rejected,
    the status is 422. The response then also has `accepted`, `duplicates`, `rejected` and `results`.
    """
    submission = Submission(audit, await _validated(body.events), body.historical)
    await resources.ingest.store([submission])
    outcomes = submission.outcomes
    results = await each(
        lambda numbered: _result(numbered[0], numbered[1], outcomes[numbered[0]]), enumerate(body.events)
    )
    answer = {
        "accepted": submission.accepted,
        "duplicates": submission.duplicates,
        "rejected": submission.rejected,
        "results": results,
    }
    if submission.rejected < len(outcomes):
        return json_response(answer, 202)
    errors = (
        error.with_prefix(f"/events/{at}") for at, outcome in enumerate(outcomes) for error in outcome.errors
    )
    failure = InvalidContentError(list(islice(errors, MOST_LISTED_ERRORS)), "None of the events could be taken.")
    return problem_response(failure, request_context_of(request).request_id, answer)


async def _validated(items: Sequence[Any]) -> Sequence[EventInput | IngestResult]:
    """Each item as a valid event, or its rejection."""
    valid: list[EventInput | IngestResult] = []
    pace = Pace()
    for start in range(0, len(items), _TOGETHER):
        part = items[start : start + _TOGETHER]
        found = _validated_together(part)
        if found is None:  # then one by one, so that each has its own errors
            valid += await each(_validated_one, part)
        else:
            valid += found
        await pace.rest()
    return valid


def _validated_together(items: Sequence[Any]) -> list[EventInput] | None:
    """All items as valid events; None if one isn't, or if they have so many names that they can't be."""
    if sum(len(item) for item in items if isinstance(item, dict)) > len(items) * len(EventInput.model_fields):
        return None
    try:
        return EVENTS.validate_python(items)
    except ValidationError:
        return None


def _validated_one(item: Any) -> EventInput | IngestResult:
    if isinstance(item, UnusableItem):
        return rejected(*item.errors)
    if errors := crowd_errors(item):
        return rejected(*errors)
    try:
        return EventInput.model_validate(item)
    except ValidationError as error:
        return rejected(*item_errors(error))


def _result(index: int, item: Any, outcome: IngestResult) -> dict[str, Any]:
    if outcome.status != "rejected":
        return {"index": index, "event_id": item["event_id"], "status": outcome.status, "errors": _NO_ERRORS}
    if isinstance(item, UnusableItem):
        item = item.item
    errors = [vars(error.with_prefix(f"/events/{index}")) for error in outcome.errors]
    return {"index": index, "event_id": usable_event_id(item), "status": outcome.status, "errors": errors}
