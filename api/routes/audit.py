"""`/audit`: accesses to personal data, for admins; reading them is audited as well."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import AuditOf, InTransaction
from api.guard import GuardedRoute, allow, audited, not_audited
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import AuditEntryNotFoundError
from models.schemas.audit import AuditEntryView, AuditHeadView
from models.schemas.common import Page
from models.schemas.fields import Timestamp, UserId
from models.vocabulary import Role
from store.audit import checkpoints
from store.audit import entries as log
from store.audit.entries import AuditFilter, StoredEntry

router = APIRouter(route_class=GuardedRoute, tags=["audit"])

_LIST = "audit"
_Name = Annotated[str | None, Query(max_length=128)]


@router.get("/audit", response_model=Page[AuditEntryView])
@allow(Role.ADMIN)
@audited("audit.list")
async def list_audit(
    connection: InTransaction,
    page: PageQuery,
    audit: AuditOf,
    user_id: Annotated[
        UserId | None, Query(description="Only accesses to this user, alone or among others.")
    ] = None,
    actor: Annotated[
        _Name, Query(description="Only by this API key's id, or for example `system:retention`.")
    ] = None,
    action: Annotated[_Name, Query(description="Only this action.", examples=["users.read"])] = None,
    since: Annotated[Timestamp | None, Query(alias="from", description="Not before this time.")] = None,
    until: Annotated[Timestamp | None, Query(alias="to", description="Before this time.")] = None,
) -> Response:
    """List accesses, the newest first."""
    wanted = AuditFilter(user_id, actor, action, since, until)
    rows = await log.page(connection, wanted, before=page.position(_LIST, datetime, int), limit=page.rows_to_fetch)
    data, pagination = page.rows_and_pagination(_LIST, rows, lambda row: (row.occurred_at, str(row.audit_id)))
    audit.note(user_id, subjects=_named_users(data), details={"shown": len(data), "filtered_by": wanted.names()})
    return json_response(Page[AuditEntryView](data=[_view(row) for row in data], pagination=pagination))


@router.get("/audit/head", response_model=AuditHeadView)
@allow(Role.ADMIN)
@not_audited
async def get_audit_head(connection: InTransaction) -> Response:
    """Get the head of the newest checkpoint: a digest of the audit log up to the checkpoint's hour.

    Keep it where the database's administrators can't change it, and compare later logs with it.
    """
    checkpoint = await checkpoints.last(connection)
    if checkpoint is None:
        return json_response(AuditHeadView(hour=None, head=None, rows=None, created_at=None))
    return json_response(
        AuditHeadView(
            hour=checkpoint.hour,
            head=checkpoint.head.hex(),
            rows=checkpoint.rows,
            created_at=checkpoint.created_at,
        )
    )


@router.get("/audit/{audit_id}", response_model=AuditEntryView, responses=problems(AuditEntryNotFoundError))
@allow(Role.ADMIN)
@audited("audit.read")
async def get_audit_entry(audit_id: str, connection: InTransaction, audit: AuditOf) -> Response:
    """Get one access with all of its subjects."""
    row = await log.find(connection, audit_id)
    audit.note(row.user_id, subjects=row.subjects)
    return json_response(_view(row))


def _named_users(rows: Sequence[StoredEntry]) -> set[str]:
    return {user_id for user_id in chain.from_iterable((row.user_id, *row.subjects) for row in rows) if user_id}


def _view(row: StoredEntry) -> AuditEntryView:
    return AuditEntryView(**{**vars(row), "audit_id": str(row.audit_id)})
