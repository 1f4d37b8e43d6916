"""`/users/{user_id}/decisions`: why a workflow did not start for a user, or a message was not sent."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import AuditOf, InTransaction, UserIdInPath
from api.guard import GuardedRoute, allow, audited
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import UserErasedError, UserNotFoundError
from models.schemas.common import Page
from models.schemas.decisions import DecisionView
from models.schemas.fields import Timestamp
from models.vocabulary import Role
from store.instances import decisions
from store.users import users

router = APIRouter(route_class=GuardedRoute, tags=["users"])

_LIST = "decisions"


@router.get(
    "/users/{user_id}/decisions",
    response_model=Page[DecisionView],
    responses=problems(UserNotFoundError, UserErasedError),
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("decisions.list")
async def list_decisions(
    user_id: UserIdInPath,
    connection: InTransaction,
    page: PageQuery,
    audit: AuditOf,
    since: Annotated[Timestamp | None, Query(description="Only decisions of this time or later.")] = None,
    workflow_id: Annotated[str | None, Query(description="Only of this workflow.")] = None,
) -> Response:
    """List the triggers that were not followed for a user, and the messages that were not sent, newest first.

    Historical events are no triggers. A message is listed as long as its instance is kept.
    """
    before = page.position(_LIST, datetime, str)
    await users.require_present(connection, user_id)
    rows = await decisions.page(
        connection, user_id, workflow_id=workflow_id, since=since, before=before, limit=page.rows_to_fetch
    )
    data, pagination = page.rows_and_pagination(_LIST, rows, lambda row: (row.at, row.row_id))
    audit.note(details={"shown": len(data)})
    views = [DecisionView.model_validate(row, from_attributes=True) for row in data]
    return json_response(Page[DecisionView](data=views, pagination=pagination))
