"""`/users/{user_id}/consents`: the consents of a person, and their history. `/consents/batch`: of many people."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.consent_batches import batch_answer, decision_of, read_item
from api.dependencies import AuditOf, Caller, InTransaction, KeepRecorded, UserIdInPath
from api.guard import GuardedRoute, allow, audited
from api.openapi import problems
from api.pages import PageQuery
from api.profiles import check_items
from api.responses import json_response
from models.errors import UserErasedError, UserNotFoundError
from models.schemas.consents import (
    ConsentBatch,
    ConsentBatchAnswer,
    ConsentHistory,
    ConsentInput,
    ConsentRecordView,
    ConsentView,
    UserConsents,
)
from models.schemas.users import Consents
from models.vocabulary import Purpose, Role
from privacy.masking import reads_people
from store.consents import consents
from store.consents.consents import ConsentDecision, ConsentEntry
from store.users import users

router = APIRouter(route_class=GuardedRoute, tags=["consents"])

_HISTORY = "consent-history"
_MISSING = problems(UserNotFoundError, UserErasedError)


@router.get("/users/{user_id}/consents", response_model=UserConsents, responses=_MISSING)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("consents.read")
async def get_consents(user_id: UserIdInPath, connection: InTransaction, audit: AuditOf) -> Response:
    """Get the present consents of a person. A purpose without a record is not granted."""
    await users.require_present(connection, user_id)
    granted = (await consents.of_users(connection, [user_id])).get(user_id, {})
    latest = await consents.latest(connection, user_id)
    audit.note(fields=Purpose)
    details = [_view(user_id, purpose, latest.get(purpose)) for purpose in Purpose]
    return json_response(UserConsents(user_id=user_id, consents=Consents(**granted), details=details))


@router.put("/users/{user_id}/consents/{purpose}", response_model=ConsentView, responses=_MISSING)
@allow(Role.INTEGRATOR)
@audited("consents.change")
async def put_consent(
    user_id: UserIdInPath,
    purpose: Purpose,
    body: ConsentInput,
    connection: InTransaction,
    caller: Caller,
    audit: AuditOf,
) -> Response:
    """Grant or withdraw the consent of a person to a purpose.

    After the answer to a withdrawal of `data_collection`, no process stores an event of the person until a new
    grant. This includes events that another process is receiving.

    The response to an integrator repeats the request. It is the same whether or not the consent changed.
    """
    decision = ConsentDecision(purpose, **body.model_dump())
    audit.note(fields=[purpose], details={"granted": decision.granted})
    entry = await consents.decide(connection, user_id, decision, actor=caller.key_id)
    if reads_people(caller.role):
        return json_response(_view(user_id, purpose, entry))
    await users.count_writes(connection, [user_id])
    return json_response(ConsentView(user_id=user_id, changed_at=None, **vars(decision)))


@router.post("/consents/batch", response_model=ConsentBatchAnswer)
@allow(Role.INTEGRATOR)
@audited("consents.change")
async def change_consents(
    body: ConsentBatch, connection: InTransaction, caller: Caller, audit: AuditOf, keep_recorded: KeepRecorded
) -> Response:
    """Grant or withdraw up to 1,000 consents in one transaction. Each has the effects of a `PUT`.

    Each item is validated on its own, in order. A rejected item doesn't affect the others. An item that repeats
    the latest decision for its user and purpose changes nothing.
    """
    checked = await check_items(body.consents, read_item)
    decided = await consents.decide_all(
        connection,
        [decision_of(item.patch) for item in checked if item.patch is not None],
        actor=caller.key_id,
        keep_recorded=keep_recorded,
    )
    answer = batch_answer(body.consents, checked, decided.results)
    counts = answer.model_dump(include={"changed", "unchanged", "rejected"})
    audit.note(
        subjects=[each.user_id for each in answer.results if each.user_id and each.status != "rejected"],
        fields={each.purpose for each in answer.results if each.purpose and each.status != "rejected"},
        details={"consents": len(checked), **counts},
    )
    return json_response(answer)


@router.delete("/users/{user_id}/consents/{purpose}", response_model=ConsentView, responses=_MISSING)
@allow(Role.INTEGRATOR)
@audited("consents.change")
async def withdraw_consent(
    user_id: UserIdInPath, purpose: Purpose, connection: InTransaction, caller: Caller, audit: AuditOf
) -> Response:
    """Withdraw a consent. Withdrawing it again changes nothing.

    An integrator's response contains neither the stored record nor whether this request changed it.
    """
    audit.note(fields=[purpose], details={"granted": False})
    entry = await consents.withdraw(connection, user_id, purpose, actor=caller.key_id)
    if reads_people(caller.role):
        return json_response(_view(user_id, purpose, entry))
    await users.count_writes(connection, [user_id])
    return json_response(_view(user_id, purpose, None))


@router.get("/users/{user_id}/consents/history", response_model=ConsentHistory, responses=_MISSING)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("consents.history")
async def get_consent_history(
    user_id: UserIdInPath, connection: InTransaction, page: PageQuery, audit: AuditOf
) -> Response:
    """List all consent records of a person, oldest first. A record is never changed or removed."""
    after = page.position(_HISTORY, int)
    await users.require_present(connection, user_id)
    rows = await consents.history(connection, user_id, limit=page.rows_to_fetch, after=after[0] if after else 0)
    data, pagination = page.rows_and_pagination(_HISTORY, rows, lambda row: (str(row.record_id),))
    audit.note(fields=Purpose, details={"shown": len(data)})
    return json_response(ConsentHistory(data=[_record(row) for row in data], pagination=pagination))


def _view(user_id: str, purpose: Purpose, entry: ConsentEntry | None) -> ConsentView:
    decision = entry.decision if entry else None
    return ConsentView(
        user_id=user_id,
        purpose=purpose,
        granted=decision.granted if decision else False,
        changed_at=entry.recorded_at if entry else None,
        source=decision.source if decision else None,
        policy_version=decision.policy_version if decision else None,
        legal_basis=decision.legal_basis if decision else None,
    )


def _record(entry: ConsentEntry) -> ConsentRecordView:
    decision = entry.decision
    return ConsentRecordView(
        purpose=decision.purpose,
        granted=decision.granted,
        source=decision.source,
        policy_version=decision.policy_version,
        legal_basis=decision.legal_basis,
        actor=entry.actor,
        recorded_at=entry.recorded_at,
    )
