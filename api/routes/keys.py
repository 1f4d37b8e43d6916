"""`/keys`: API keys, for admins."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AuditOf, InTransaction
from api.guard import GuardedRoute, allow, audited, not_audited
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import KeyNotFoundError, LastAdminKeyError
from models.schemas.common import Page
from models.schemas.keys import Key, KeyCreate, KeyCreated
from models.vocabulary import Role
from store import api_keys
from store.api_keys import ApiKeyRecord

router = APIRouter(route_class=GuardedRoute, tags=["keys"])

_LIST = "keys"


@router.get("/keys", response_model=Page[Key])
@allow(Role.ADMIN)
@not_audited
async def list_keys(connection: InTransaction, page: PageQuery) -> Response:
    """List keys, oldest first, including revoked ones. Secrets are never shown."""
    after = page.position(_LIST, datetime, str)
    rows = await api_keys.list_keys(connection, limit=page.rows_to_fetch, after=after)
    data, pagination = page.rows_and_pagination(_LIST, rows, lambda row: (row.created_at, row.key_id))
    return json_response(Page[Key](data=[_key(row) for row in data], pagination=pagination))


@router.post("/keys", status_code=201, response_model=KeyCreated)
@allow(Role.ADMIN)
@audited("keys.create")
async def create_key(body: KeyCreate, connection: InTransaction, audit: AuditOf) -> Response:
    """Create a key. Only this answer contains its secret."""
    record, secret = await api_keys.create(connection, body.name, body.role, body.rate_limit)
    audit.note(details={"key_id": record.key_id, "role": record.role})
    answer = KeyCreated(
        id=record.key_id,
        key=secret,
        name=record.name,
        role=record.role,
        rate_limit=record.rate_limit,
        created_at=record.created_at,
    )
    return json_response(answer, 201, {"Location": f"/keys/{record.key_id}"})


@router.delete(
    "/keys/{key_id}",
    status_code=204,
    response_class=Response,
    responses=problems(KeyNotFoundError, LastAdminKeyError),
)
@allow(Role.ADMIN)
@audited("keys.revoke")
async def revoke_key(key_id: str, connection: InTransaction, audit: AuditOf) -> Response:
    """Revoke a key. It is rejected from the next request on, in every process. Revoking it again changes
    nothing. The last admin key can't be revoked."""
    await api_keys.revoke(connection, key_id)
    audit.note(details={"key_id": key_id})
    return Response(status_code=204)


def _key(record: ApiKeyRecord) -> Key:
    return Key(
        id=record.key_id,
        name=record.name,
        role=record.role,
        rate_limit=record.rate_limit,
        created_at=record.created_at,
        revoked_at=record.revoked_at,
    )
