"""`/users/{user_id}/consents`: what a person has agreed to, and its history."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction, UserIdInPath
from api.guard import GuardedRoute, allow, audited
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import UserErasedError, UserNotFoundError
from models.schemas.consents import ConsentHistory, ConsentInput, ConsentRecordView, ConsentView, UserConsents
from models.schemas.users import Consents
from models.vocabulary import Purpose, Role
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
    """What a person agrees to now. A purpose about which nothing was said is refused."""
    await users.require_present(connection, user_id)
    said = (await consents.of_users(connection, [user_id])).get(user_id, {})
    last = await consents.latest(connection, user_id)
    audit.note(fields=Purpose)
    details = [_view(user_id, purpose, last.get(purpose)) for purpose in Purpose]
    return json_response(UserConsents(user_id=user_id, consents=Consents(**said), details=details))


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
    """Take what a person has said about a purpose.

    After the answer to a withdrawal of `data_collection` no event of the person is stored while it stands,
    not even one that was under way in another process.
    """
    said = ConsentDecision(purpose, **body.model_dump())
    audit.note(fields=[purpose], details={"granted": said.granted})
    entry = await consents.decide(connection, user_id, said, actor=caller.key_id)
    return json_response(_view(user_id, purpose, entry))


@router.delete("/users/{user_id}/consents/{purpose}", response_model=ConsentView, responses=_MISSING)
@allow(Role.INTEGRATOR)
@audited("consents.change")
async def withdraw_consent(
    user_id: UserIdInPath, purpose: Purpose, connection: InTransaction, caller: Caller, audit: AuditOf
) -> Response:
    """Withdraw a consent: the same as to put `{"granted": false}`. To withdraw it again changes nothing."""
    audit.note(fields=[purpose], details={"granted": False})
    entry = await consents.withdraw(connection, user_id, purpose, actor=caller.key_id)
    return json_response(_view(user_id, purpose, entry))


@router.get("/users/{user_id}/consents/history", response_model=ConsentHistory, responses=_MISSING)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("consents.history")
async def get_consent_history(
    user_id: UserIdInPath, connection: InTransaction, page: PageQuery, audit: AuditOf
) -> Response:
    """List everything that a person has said, the oldest first. Nothing is ever changed or taken out of it."""
    await users.require_present(connection, user_id)
    after = page.after(_HISTORY, int)
    rows = await consents.history(connection, user_id, limit=page.fetch, after=after[0] if after else 0)
    data, pagination = page.cut(_HISTORY, rows, lambda row: (str(row.record_id),))
    audit.note(fields=Purpose, details={"shown": len(data)})
    return json_response(ConsentHistory(data=[_record(row) for row in data], pagination=pagination))


def _view(user_id: str, purpose: Purpose, entry: ConsentEntry | None) -> ConsentView:
    said = entry.decision if entry else None
    return ConsentView(
        user_id=user_id,
        purpose=purpose,
        granted=said.granted if said else False,
        changed_at=entry.recorded_at if entry else None,
        source=said.source if said else None,
        policy_version=said.policy_version if said else None,
        legal_basis=said.legal_basis if said else None,
    )


def _record(entry: ConsentEntry) -> ConsentRecordView:
    said = entry.decision
    return ConsentRecordView(
        purpose=said.purpose,
        granted=said.granted,
        source=said.source,
        policy_version=said.policy_version,
        legal_basis=said.legal_basis,
        actor=entry.actor,
        recorded_at=entry.recorded_at,
    )
