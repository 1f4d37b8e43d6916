"""`/workflows/{workflow_id}/execute/batch` and `.../bulks`: one workflow for many users.

The answer needs no Temporal, since the outbox starts the instances (:mod:`store.instances.bulks`). Instances,
audit row and the answer to the Idempotency-Key are one transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.audit import Audit
from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf
from api.execute import checked_parameters
from api.guard import GuardedRoute, allow, audited, not_audited
from api.idempotency import IdempotencyOf
from api.openapi import problems
from api.profiles import CheckedItem, check_items
from api.responses import json_response
from models.errors import (
    AlreadyFinishedError,
    BulkNotFoundError,
    FieldError,
    IdempotencyKeyReusedError,
    InvalidContentError,
    InvalidIdempotencyKeyError,
    WorkflowNotFoundError,
)
from models.schemas.bulks import BulkAnswer, BulkResult, BulkUser, BulkView, ExecuteBatchRequest
from models.schemas.users import ItemError
from models.vocabulary import Role
from store.instances import bulks
from store.instances.bulks import Bulk, BulkRequest, Refused
from workflows.catalog import find

router = APIRouter(route_class=GuardedRoute, tags=["workflows"])

_BULK = "/workflows/{workflow_id}/bulks/{bulk_id}"
_BULK_IDS = uuid.UUID("5f5d3f0e-9c55-4a53-8f8e-7b1f0a0a3c11")


@router.post(
    "/workflows/{workflow_id}/execute/batch",
    status_code=202,
    response_model=BulkAnswer,
    responses=problems(
        *(WorkflowNotFoundError, InvalidContentError, IdempotencyKeyReusedError, InvalidIdempotencyKeyError),
        located=True,
    ),
)
@allow(Role.OPERATOR)
@audited("workflows.execute")
async def execute_batch(
    workflow_id: str,
    body: ExecuteBatchRequest,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    idempotency: IdempotencyOf,
    audit: AuditOf,
) -> Response:
    """Start a workflow for up to 1,000 users.

    202 means that the instances are stored, also if Temporal can't be reached. They start later, `per_second`.
    Each user is checked as by `execute`. A user who is rejected, or listed twice, doesn't affect the others. If
    all are rejected, there is no bulk to watch, and no `Location`.
    """
    definition = find(workflow_id)
    claim = await idempotency.claim(connection)
    checked = await check_items(body.user_ids, _read)
    if claim.replay:
        first = BulkAnswer.model_validate_json(bytes(claim.replay.body))
        _note(audit, workflow_id, first, replayed=True)
        return claim.replay
    bulk_id = uuid.uuid5(_BULK_IDS, claim.token).hex
    request = BulkRequest(
        bulk_id=bulk_id,
        user_ids=list(dict.fromkeys(each.user_id for each in checked if each.user_id and not each.errors)),
        started_by=caller.key_id,
        parameters=checked_parameters(definition, body.parameters),
        max_attempts=body.max_attempts,
        pause=timedelta(seconds=1 / body.per_second),
    )
    outcomes = await bulks.start(connection, resources.cipher, definition.startable, request)
    results = _results(checked, outcomes)
    started = sum(each.status == "started" for each in results)
    answer = BulkAnswer(bulk_id=bulk_id, started=started, rejected=len(results) - started, results=results)
    _note(audit, workflow_id, answer, replayed=False)
    headers = {"Location": f"/workflows/{workflow_id}/bulks/{bulk_id}"} if started else {}
    response = json_response(answer, 202, headers)
    await idempotency.keep(connection, claim, response, subject=None)
    return response


@router.get(_BULK, response_model=BulkView, responses=problems(WorkflowNotFoundError, BulkNotFoundError))
@allow(Role.OPERATOR, Role.ANALYST)
@not_audited
async def read_bulk(workflow_id: str, bulk_id: str, connection: InTransaction) -> Response:
    """Count the instances of a bulk by their last recorded status. `GET .../instances?bulk_id=` lists them."""
    find(workflow_id)
    return json_response(_view(await bulks.find(connection, workflow_id, bulk_id)))


@router.delete(
    _BULK,
    status_code=202,
    response_model=BulkView,
    responses=problems(WorkflowNotFoundError, BulkNotFoundError, AlreadyFinishedError),
)
@allow(Role.OPERATOR)
@audited("instances.cancel")
async def cancel_bulk(workflow_id: str, bulk_id: str, connection: InTransaction, audit: AuditOf) -> Response:
    """Request the cancellation of a bulk's instances. Those that wait for their turn don't start any more."""
    find(workflow_id)
    cancelled = await bulks.cancel(connection, workflow_id, bulk_id)
    audit.note(
        subjects=cancelled, details={"workflow_id": workflow_id, "bulk_id": bulk_id, "cancelled": len(cancelled)}
    )
    return json_response(_view(await bulks.find(connection, workflow_id, bulk_id)), 202)


def _note(audit: Audit, workflow_id: str, answer: BulkAnswer, *, replayed: bool) -> None:
    audit.note(
        subjects=[each.user_id for each in answer.results if each.user_id and each.status == "started"],
        fields=["parameters"],
        details={
            "workflow_id": workflow_id,
            **answer.model_dump(include={"bulk_id", "started", "rejected"}),
            "replayed": replayed,
        },
    )


def _read(item: Any) -> Mapping[str, Any]:
    return BulkUser.model_validate({"user_id": item}).model_dump()


def _results(checked: Sequence[CheckedItem], outcomes: Mapping[str, str | Refused]) -> list[BulkResult]:
    seen: set[str] = set()
    return [_result(index, item, outcomes, seen) for index, item in enumerate(checked)]


def _result(index: int, item: CheckedItem, outcomes: Mapping[str, str | Refused], seen: set[str]) -> BulkResult:
    instance_id, errors = None, [FieldError("", each.code, each.message) for each in item.errors]
    if not errors and item.user_id is not None:
        if item.user_id in seen:
            errors = [FieldError("", "duplicate_user", "is listed before")]
        elif isinstance(outcome := outcomes[item.user_id], Refused):
            instance_id, errors = outcome.instance_id, [FieldError("", outcome.code, outcome.message)]
        else:
            instance_id = outcome
        seen.add(item.user_id)
    return BulkResult(
        index=index,
        user_id=item.user_id,
        status="rejected" if errors else "started",
        instance_id=instance_id,
        errors=[ItemError(**vars(error.with_prefix(f"/user_ids/{index}"))) for error in errors],
    )


def _view(bulk: Bulk) -> BulkView:
    return BulkView(
        bulk_id=bulk.bulk_id,
        workflow_id=bulk.workflow_id,
        created_at=bulk.created_at,
        instances=sum(bulk.statuses.values()),
        queued=bulk.queued,
        statuses=dict(bulk.statuses),
    )
