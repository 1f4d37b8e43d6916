"""`/retention`: how long data is kept."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction
from api.guard import GuardedRoute, allow, audited, impersonal
from api.responses import json_response
from models.vocabulary import Role
from models.wire.events import RetentionInput, RetentionView
from store import retention

router = APIRouter(route_class=GuardedRoute, tags=["retention"])


@router.get("/retention/events", response_model=RetentionView)
@allow(Role.ADMIN)
@impersonal
async def get_event_retention(connection: InTransaction) -> Response:
    """How many days events are kept; 365 where nobody has said otherwise."""
    return json_response(RetentionView(**vars(await retention.find(connection, retention.EVENTS))))


@router.put("/retention/events", response_model=RetentionView)
@allow(Role.ADMIN)
@audited("retention.change")
async def set_event_retention(
    body: RetentionInput, connection: InTransaction, caller: Caller, audit: AuditOf
) -> Response:
    """Set how many days events are kept. It holds for the next event in every process; older ones are refused."""
    audit.note(details={"data_type": retention.EVENTS, "days": body.days})
    kept = await retention.change(connection, retention.EVENTS, body.days, actor=caller.key_id)
    return json_response(RetentionView(**vars(kept)))
