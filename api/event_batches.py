"""Batches of events: each item judged on its own, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from api.audit import Audit
from api.responses import PROBLEM_MEDIA_TYPE, json_response, problem
from api.validation import item_errors
from models.audit import AuditEntry, AuditOutcome
from models.errors import FieldError, InvalidContentError
from models.rules.ingest import USER_ID_RESERVED, USER_UNKNOWN, Outcome, rejected
from models.schemas.events import EVENTS, EventInput, usable_event_id
from models.schemas.fields import UnusableItem, is_user_id

_NO_ERRORS: list[Any] = []


def check_items(items: Sequence[Any]) -> tuple[list[EventInput], dict[int, Outcome]]:
    """The valid items in their order, and by index why the others are rejected."""
    try:
        return EVENTS.validate_python(items), {}
    except ValidationError:  # one by one: what is wrong with one is told apart
        pass
    good, refused = [], {}
    for index, item in enumerate(items):
        if isinstance(item, UnusableItem):
            refused[index] = rejected(*item.errors)
            continue
        try:
            good.append(EventInput.model_validate(item))
        except ValidationError as error:
            refused[index] = rejected(*item_errors(error))
    return good, refused


def explained(outcome: Outcome, event: EventInput) -> Outcome:
    """What became of an event, where nobody has its user's id because nobody may have it."""
    reserved = outcome is USER_UNKNOWN and not is_user_id(event.user_id)
    return USER_ID_RESERVED if reserved else outcome


def batch_entry(audit: Audit, sent: int, valid: Sequence[EventInput], outcomes: Sequence[Outcome]) -> AuditEntry:
    """The batch in the audit log: one row, with the ids of all whose events are stored."""
    statuses = [outcome.status for outcome in outcomes]
    accepted, duplicates = statuses.count("accepted"), statuses.count("duplicate")
    return audit.entry(
        subjects={event.user_id for event, status in zip(valid, statuses, strict=True) if status != "rejected"},
        details={
            "events": sent,
            "accepted": accepted,
            "duplicates": duplicates,
            "rejected": sent - accepted - duplicates,
        },
    )


def single_entry(audit: Audit, event: EventInput, outcome: Outcome) -> AuditEntry:
    """A single event in the audit log; a rejected one with the code of its refusal."""
    if outcome.errors:
        refusal = {"code": outcome.errors[0].code}
        return audit.entry(event.user_id, outcome=AuditOutcome.REFUSED, details=refusal)
    return audit.entry(event.user_id, details={"status": outcome.status})


def batch_response(items: Sequence[Any], outcomes: Sequence[Outcome], request_id: str) -> Response:
    """202 with what became of each item; 422 with the same where none could be taken."""
    statuses = [outcome.status for outcome in outcomes]
    answer: dict[str, Any] = {
        "accepted": statuses.count("accepted"),
        "duplicates": statuses.count("duplicate"),
        "rejected": statuses.count("rejected"),
        "results": [
            _result(index, item, outcome)
            for index, (item, outcome) in enumerate(zip(items, outcomes, strict=True))
        ],
    }
    if answer["rejected"] < len(items):
        return json_response(answer, 202)
    return _nothing_taken(answer, outcomes, request_id)


def _result(index: int, item: Any, outcome: Outcome) -> dict[str, Any]:
    errors = _NO_ERRORS
    if outcome.errors:
        errors = [vars(error) for error in _placed(index, outcome)]
    if isinstance(item, UnusableItem):
        item = item.item
    event_id = usable_event_id(item) if outcome.status == "rejected" else item["event_id"]
    return {"index": index, "event_id": event_id, "status": outcome.status, "errors": errors}


def _placed(index: int, outcome: Outcome) -> list[FieldError]:
    return [error.below(f"/events/{index}") for error in outcome.errors]


def _nothing_taken(answer: dict[str, Any], outcomes: Sequence[Outcome], request_id: str) -> Response:
    errors = [error for index, outcome in enumerate(outcomes) for error in _placed(index, outcome)]
    failure = InvalidContentError(errors, "None of the events could be taken.")
    document = problem(failure, request_id).model_dump(exclude_none=True) | answer
    response = json_response(document, failure.status)
    response.headers["content-type"] = PROBLEM_MEDIA_TYPE
    return response
