"""`/dead-letters`: reads, replays and discards dead letters."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf
from api.guard import GuardedRoute, allow, audited
from api.instances import location
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import (
    AlreadyReplayingError,
    AlreadyRunningError,
    AlreadySettledError,
    ConsentRequiredError,
    DeadLetterNotFoundError,
    UserErasedError,
)
from models.schemas.common import Page
from models.schemas.dead_letters import DeadLetterView, RefusedReplay, ReplayAnswer, ReplayFilter
from models.schemas.fields import Timestamp, UserId
from models.tables.execution import DeadLetter
from models.vocabulary import DeadLetterStatus, Role
from privacy.instance_views import error_view
from store.instances import dead_letters, replays
from store.instances.dead_letters import Filter, StoredDeadLetter

router = APIRouter(route_class=GuardedRoute, tags=["dead letters"])

_LIST = "dead-letters"
_DEAD_LETTER = "/dead-letters/{dead_letter_id}"
_AUDITED_FIELDS = ("error",)
_NOT_OPEN = (DeadLetterNotFoundError, AlreadySettledError, AlreadyReplayingError)


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
    failed_step: Annotated[str | None, Query(description="Only of this step.")] = None,
    error_type: Annotated[str | None, Query(description="Only with this error.")] = None,
    created_after: Annotated[Timestamp | None, Query(description="Not before this time.")] = None,
    created_before: Annotated[Timestamp | None, Query(description="Before this time.")] = None,
) -> Response:
    """List dead letters, newest first."""
    wanted = Filter(
        status, workflow_id, instance_id, user_id, failed_step, error_type, created_after, created_before
    )
    rows = await dead_letters.page(
        connection,
        resources.cipher,
        wanted,
        before=page.position(_LIST, datetime, str),
        limit=page.rows_to_fetch,
    )
    data, pagination = page.rows_and_pagination(_LIST, rows, lambda row: (row.created_at, row.dead_letter_id))
    audit.note(
        user_id, subjects=[row.user_id for row in data], fields=_AUDITED_FIELDS, details={"shown": len(data)}
    )
    views = [_view(caller.role, row) for row in data]
    return json_response(Page[DeadLetterView](data=views, pagination=pagination))


@router.post(
    "/dead-letters/replay",
    status_code=202,
    response_model=ReplayAnswer,
    responses={200: {"model": ReplayAnswer, "description": "The answer to a `dry_run`."}},
)
@allow(Role.OPERATOR)
@audited("dead_letters.replay")
async def replay_dead_letters(
    body: ReplayFilter, connection: InTransaction, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Replay open dead letters, oldest first, at `per_second`.

    With `dry_run` the status is 200, and nothing is replayed: the answer counts what would be.
    """
    wanted = Filter(**body.model_dump(exclude={"limit", "per_second", "dry_run"}))
    letters = await dead_letters.find_open(connection, resources.cipher, wanted, body.limit)
    if body.dry_run:
        done = await replays.check_all(connection, letters)
    else:
        done = await replays.request_all(connection, letters, pause=timedelta(seconds=1 / body.per_second))
    audit.note(
        body.user_id,
        subjects=[dead_letter.user_id for dead_letter in letters],
        details={"accepted": len(done.accepted), "refused": len(done.rejected), "dry_run": body.dry_run},
    )
    answer = ReplayAnswer(
        accepted=len(done.accepted),
        refused=[
            RefusedReplay(id=dead_letter.dead_letter_id, code=error.code) for dead_letter, error in done.rejected
        ],
        per_second=body.per_second,
        remaining=len(letters) == body.limit,
        dry_run=body.dry_run,
    )
    return json_response(answer, 200 if body.dry_run else 202)


@router.get(_DEAD_LETTER, response_model=DeadLetterView, responses=problems(DeadLetterNotFoundError))
@allow(Role.OPERATOR, Role.ANALYST)
@audited("dead_letters.read")
async def read_dead_letter(
    dead_letter_id: str, connection: InTransaction, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Get one dead letter."""
    dead_letter = await dead_letters.find(connection, resources.cipher, dead_letter_id)
    audit.note(dead_letter.user_id, fields=_AUDITED_FIELDS, details=_details(dead_letter))
    return json_response(_view(caller.role, dead_letter))


@router.post(
    f"{_DEAD_LETTER}/replay",
    status_code=202,
    response_model=DeadLetterView,
    responses=problems(*_NOT_OPEN, AlreadyRunningError, ConsentRequiredError, UserErasedError, located=True),
)
@allow(Role.OPERATOR)
@audited("dead_letters.replay")
async def replay_dead_letter(
    dead_letter_id: str, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Run the instance again from its failed step. Attempts count anew.

    If Temporal no longer has its history, the instance starts anew with its parameters and its trigger. Completed
    steps and waits do not run again in either case, including parallel ones. If the step fails again, this dead
    letter opens again with one more attempt.
    """
    async with resources.database.connection() as connection:
        dead_letter = await dead_letters.find(connection, resources.cipher, dead_letter_id)
    audit.user_id = dead_letter.user_id
    async with audit.transaction() as connection:
        dead_letter = await replays.request(connection, resources.cipher, dead_letter_id)
        audit.note(dead_letter.user_id, fields=_AUDITED_FIELDS, details=_details(dead_letter))
    headers = {"Location": location(dead_letter.workflow_id, dead_letter.instance_id)}
    return json_response(_view(caller.role, dead_letter), 202, headers)


@router.post(f"{_DEAD_LETTER}/discard", response_model=DeadLetterView, responses=problems(*_NOT_OPEN))
@allow(Role.OPERATOR)
@audited("dead_letters.discard")
async def discard_dead_letter(
    dead_letter_id: str, connection: InTransaction, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Settle a dead letter without a replay. Its instance stays failed."""
    dead_letter = await dead_letters.discard(connection, resources.cipher, dead_letter_id)
    audit.note(dead_letter.user_id, fields=_AUDITED_FIELDS, details=_details(dead_letter))
    return json_response(_view(caller.role, dead_letter))


def _details(dead_letter: StoredDeadLetter) -> dict[str, str]:
    return {
        "dead_letter_id": dead_letter.dead_letter_id,
        "workflow_id": dead_letter.workflow_id,
        "instance_id": dead_letter.instance_id,
    }


def _view(role: Role, dead_letter: StoredDeadLetter) -> DeadLetterView:
    return DeadLetterView(
        id=dead_letter.dead_letter_id,
        workflow_id=dead_letter.workflow_id,
        instance_id=dead_letter.instance_id,
        user_id=dead_letter.user_id,
        failed_step=dead_letter.failed_step,
        error=error_view(role, DeadLetter, dead_letter.error),
        attempts=dead_letter.attempts,
        status=dead_letter.status,
        created_at=dead_letter.created_at,
        updated_at=dead_letter.updated_at,
    )
