"""`/keys`: API keys, for admins."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import AuditOf, InTransaction
from api.guard import GuardedRoute, allow, audited, not_audited
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import KeyNotFoundError, KeyRevokedError, LastAdminKeyError
from models.schemas.common import Page
from models.schemas.keys import Key, KeyCreate, KeyCreated, KeyPatch, KeyRotated
from models.vocabulary import Role
from store import api_keys
from store.api_keys import ApiKeyRecord

router = APIRouter(route_class=GuardedRoute, tags=["keys"])

_LIST = "keys"
MOST_KEEP_HOURS = 24


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
    record, secret = await api_keys.create(connection, body.name, body.required_roles(), body.rate_limit)
    audit.note(details={"key_id": record.key_id, "role": ",".join(record.roles)})
    answer = KeyCreated(key=secret, **_shown(record))
    return json_response(answer, 201, {"Location": f"/keys/{record.key_id}"})


@router.patch(
    "/keys/{key_id}",
    response_model=Key,
    responses=problems(KeyNotFoundError, KeyRevokedError, LastAdminKeyError),
)
@allow(Role.ADMIN)
@audited("keys.change")
async def change_key(key_id: str, body: KeyPatch, connection: InTransaction, audit: AuditOf) -> Response:
    """Change name, roles or rate limit. The next request with the key has them, in every process.

    The last admin key keeps its role.
    """
    before, record = await api_keys.change(
        connection,
        key_id,
        name=body.name,
        roles=body.chosen(),
        rate_limit=body.rate_limit if "rate_limit" in body.model_fields_set else ...,
    )
    audit.note(fields=body.model_fields_set, details=api_keys.change_details(before, record))
    return json_response(_key(record))


@router.post(
    "/keys/{key_id}/rotate", response_model=KeyRotated, responses=problems(KeyNotFoundError, KeyRevokedError)
)
@allow(Role.ADMIN)
@audited("keys.rotate")
async def rotate_key(
    key_id: str,
    connection: InTransaction,
    audit: AuditOf,
    keep_hours: Annotated[
        int,
        Query(ge=0, le=MOST_KEEP_HOURS, description="How long the replaced secret stays valid; 0: not at all."),
    ] = MOST_KEEP_HOURS,
) -> Response:
    """Give a key another secret. Its id, roles and rate limit stay, and so do the callbacks of its instances.

    Only this answer contains the secret. If it is lost, rotate again: replaced secrets are valid until their time.
    After a leak send `keep_hours=0`.
    """
    secret, replaced_until = await api_keys.rotate(connection, key_id, timedelta(hours=keep_hours))
    audit.note(details={"key_id": key_id, "keep_hours": keep_hours})
    return json_response(KeyRotated(id=key_id, key=secret, replaced_until=replaced_until))


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
    return Key(**_shown(record), revoked_at=record.revoked_at)


def _shown(record: ApiKeyRecord) -> dict[str, Any]:
    roles = list(record.roles)
    return {
        "id": record.key_id,
        "name": record.name,
        "role": roles[0] if len(roles) == 1 else None,
        "roles": roles,
        "rate_limit": record.rate_limit,
        "created_at": record.created_at,
    }
