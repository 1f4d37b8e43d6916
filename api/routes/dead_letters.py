"""`/dead-letters`: what has failed for good, and what becomes of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf
from api.executions import Executions
from api.guard import GuardedRoute, allow, audited
from api.instances import location
from api.openapi import problems
from api.pages import PageQuery
from api.resources import Resources
from api.responses import json_response
from models.errors import (
    AlreadyReplayingError,
    AlreadySettledError,
    ConsentRequiredError,
    DeadLetterNotFoundError,
    HistoryGoneError,
    TemporalUnavailableError,
    UserErasedError,
)
from models.schemas.dead_letters import DeadLetterView, RefusedReplay, ReplayAnswer, ReplayFilter
from models.schemas.fields import UserId
from models.schemas.pages import Page
from models.tables.execution import DeadLetter
from models.vocabulary import DeadLetterStatus, Role
from store.instances import dead_letters, replays
from store.instances.dead_letters import Filter, StoredDeadLetter
from store.instances.views import error_view

router = APIRouter(route_class=GuardedRoute, tags=["dead letters"])

_LIST = "dead-letters"
_LETTER = "/dead-letters/{dead_letter_id}"
_SHOWN = ("error",)
_SETTLED = (DeadLetterNotFoundError, AlreadySettledError, AlreadyReplayingError)


@router.get("/dead-letters", response_model=Page[DeadLetterView])
@allow(Role.OPERATOR, Role.ANALYST)
@audited("dead_letters.list")
async def list_dead_letters(
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    page: PageQuery,
    audit: AuditOf,
    status: Annotated[DeadLetterStatus | None, Query(description="Only these.")] = None,
    workflow_id: Annotated[str | None, Query(description="Only of this workflow.")] = None,
    instance_id: Annotated[str | None, Query(description="Only of this instance.")] = None,
    user_id: Annotated[UserId | None, Query(description="Only of this user.")] = None,
    error_type: Annotated[str | None, Query(description="Only with this error.")] = None,
) -> Response:
    """List dead letters, newest first."""
    wanted = Filter(
        status=status, workflow_id=workflow_id, instance_id=instance_id, user_id=user_id, error_type=error_type
    )
    rows = await dead_letters.page(
        connection,
        resources.cipher,
        wanted,
        before=page.after(_LIST, datetime, str),
        limit=page.fetch,
    )
    data, pagination = page.cut(_LIST, rows, lambda row: (row.created_at, row.dead_letter_id))
    audit.note(user_id, subjects=[row.user_id for row in data], fields=_SHOWN, details={"shown": len(data)})
    views = [_view(caller.role, row) for row in data]
    return json_response(Page[DeadLetterView](data=views, pagination=pagination))


@router.post("/dead-letters/replay", status_code=202, response_model=ReplayAnswer)
@allow(Role.OPERATOR)
@audited("dead_letters.replay")
async def replay_dead_letters(
    body: ReplayFilter, connection: InTransaction, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Replay open dead letters, the oldest first and at a pace."""
    wanted = Filter(**body.model_dump(exclude={"limit", "per_second"}))
    letters = await dead_letters.open_ones(connection, resources.cipher, wanted, body.limit)
    done = await replays.request_all(connection, letters, pause=timedelta(seconds=1 / body.per_second))
    audit.note(
        body.user_id,
        subjects=[letter.user_id for letter in letters],
        details={"accepted": len(done.accepted), "refused": len(done.refused)},
    )
    answer = ReplayAnswer(
        accepted=len(done.accepted),
        refused=[RefusedReplay(id=letter.dead_letter_id, code=reason.code) for letter, reason in done.refused],
        per_second=body.per_second,
        remaining=len(letters) == body.limit,
    )
    return json_response(answer, 202)


@router.get(_LETTER, response_model=DeadLetterView, responses=problems(DeadLetterNotFoundError))
@allow(Role.OPERATOR, Role.ANALYST)
@audited("dead_letters.read")
async def read_dead_letter(
    dead_letter_id: str, connection: InTransaction, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """One dead letter."""
    letter = await dead_letters.find(connection, resources.cipher, dead_letter_id)
    audit.note(letter.user_id, fields=_SHOWN, details=_named(letter))
    return json_response(_view(caller.role, letter))


@router.post(
    f"{_LETTER}/replay",
    status_code=202,
    response_model=DeadLetterView,
    responses=problems(
        *_SETTLED, HistoryGoneError, ConsentRequiredError, UserErasedError, TemporalUnavailableError
    ),
)
@allow(Role.OPERATOR)
@audited("dead_letters.replay")
async def replay_dead_letter(
    dead_letter_id: str, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Carry the instance on from the failed step, with attempts granted anew.

    What had been completed is not done again, not even beside the failed step. If it fails again, this letter is
    open again, with one more attempt.
    """
    async with resources.database.connection() as connection:
        letter = await dead_letters.find(connection, resources.cipher, dead_letter_id)
    audit.user_id = letter.user_id
    if letter.status is DeadLetterStatus.OPEN:
        await _executions(resources).require_history(letter.workflow_id, letter.instance_id, letter.run_id)
    async with audit.transaction() as connection:
        letter = await replays.request(connection, resources.cipher, dead_letter_id)
        audit.note(letter.user_id, fields=_SHOWN, details=_named(letter))
    headers = {"Location": location(letter.workflow_id, letter.instance_id)}
    return json_response(_view(caller.role, letter), 202, headers)


@router.post(f"{_LETTER}/discard", response_model=DeadLetterView, responses=problems(*_SETTLED))
@allow(Role.OPERATOR)
@audited("dead_letters.discard")
async def discard_dead_letter(
    dead_letter_id: str, connection: InTransaction, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Settle a dead letter as not to be replayed; its instance stays failed."""
    letter = await dead_letters.discard(connection, resources.cipher, dead_letter_id)
    audit.note(letter.user_id, fields=_SHOWN, details=_named(letter))
    return json_response(_view(caller.role, letter))


def _executions(resources: Resources) -> Executions:
    return Executions(resources.database, resources.cipher, resources.temporal, resources.settings.task_queue)


def _named(letter: StoredDeadLetter) -> dict[str, str]:
    return {
        "dead_letter_id": letter.dead_letter_id,
        "workflow_id": letter.workflow_id,
        "instance_id": letter.instance_id,
    }


def _view(role: Role, letter: StoredDeadLetter) -> DeadLetterView:
    return DeadLetterView(
        id=letter.dead_letter_id,
        workflow_id=letter.workflow_id,
        instance_id=letter.instance_id,
        user_id=letter.user_id,
        failed_step=letter.failed_step,
        error=error_view(role, DeadLetter, letter.error),
        attempts=letter.attempts,
        status=letter.status,
        created_at=letter.created_at,
        updated_at=letter.updated_at,
    )
