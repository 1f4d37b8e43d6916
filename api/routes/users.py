"""`/users`: creates, reads, lists, searches, changes and exports profiles."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from api.audit import Audit, attribute_names
from api.dependencies import AuditOf, Caller, InTransaction, KeepRecorded, ResourcesOf, UserIdInPath
from api.exports import Export, exported_fields
from api.guard import GuardedRoute, allow, audited
from api.idempotency import IdempotencyOf
from api.openapi import problems
from api.pages import PageQuery, PageRequest
from api.profiles import (
    AUDITED_FIELDS,
    batch_answer,
    batch_document,
    check_items,
    etag,
    etags,
    fields_of,
    full_profile,
    masked_for,
    profile_for_writer,
    read_upsert,
)
from api.resources import Resources
from api.responses import if_match_holds, if_none_match_hits, json_response
from models.audit import Detail
from models.errors import (
    ConsentRequiredError,
    FieldError,
    IdempotencyKeyReusedError,
    InvalidContentError,
    InvalidIdempotencyKeyError,
    PreconditionFailedError,
    UserErasedError,
    UserExistsError,
    UserNotFoundError,
)
from models.rules import profile as rules
from models.rules.profile_changes import by_attribute
from models.schemas.exports import UserExport
from models.schemas.users import (
    UserBatch,
    UserBatchAnswer,
    UserCreate,
    UserPage,
    UserPatch,
    UserProfile,
    UserSearch,
)
from models.vocabulary import AccountStatus, LifecycleStage, Role
from privacy.masking import reads_people
from store.pacing import each
from store.users import attribute_times, batches, stages, users
from store.users.rows import StoredUser

router = APIRouter(route_class=GuardedRoute, tags=["users"])

_LIST = "users"
_SEARCH = "users-search"
_ATTACHED = {
    "Content-Disposition": {"description": "`attachment`, with the name of a file.", "schema": {"type": "string"}}
}


@router.post(
    "/users",
    status_code=201,
    response_model=UserProfile,
    responses=problems(
        ConsentRequiredError,
        UserExistsError,
        UserErasedError,
        IdempotencyKeyReusedError,
        InvalidIdempotencyKeyError,
        created=True,
    ),
)
@allow(Role.INTEGRATOR)
@audited("users.create")
async def create_user(
    body: UserCreate,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    idempotency: IdempotencyOf,
    audit: AuditOf,
) -> Response:
    """Create a profile.

    The response to an integrator has only the attributes of the request, `user_id`, `created_at` and `updated_at`.
    """
    sent = body.model_dump(exclude_unset=True)
    audit.user_id = body.user_id
    claim = await idempotency.claim(connection)
    audit.note(fields=attribute_names(sent), details={"replayed": claim.repeated})
    if claim.replay:
        return claim.replay
    if claim.forgotten:
        stored = await users.find(connection, resources.cipher, body.user_id)
    else:
        stored = await users.create(connection, resources.cipher, rules.create(sent), actor=caller.key_id)
    profile = _full(stored, resources)
    headers = {"Location": f"/users/{body.user_id}", "ETag": etag(resources.cipher, caller.role, stored, profile)}
    response = json_response(profile_for_writer(caller.role, stored, profile, sent), 201, headers)
    await idempotency.keep(connection, claim, response, subject=body.user_id)
    return response


@router.post(
    "/users/batch",
    response_model=UserBatchAnswer,
    responses=problems(IdempotencyKeyReusedError, InvalidIdempotencyKeyError),
)
@allow(Role.INTEGRATOR)
@audited("users.upsert")
async def upsert_users(
    body: UserBatch,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    idempotency: IdempotencyOf,
    audit: AuditOf,
    keep_recorded: KeepRecorded,
) -> Response:
    """Create or update up to 1,000 profiles.

    Items are validated separately and applied in order. An item with a new `user_id` needs all core attributes. An
    item for an existing user is a JSON merge patch. A rejected item changes nothing and doesn't affect the others.
    """
    claim = await idempotency.claim(connection)
    # A replay is checked too, because its audit row contains the names of the sent attributes.
    checked = await check_items(body.users, read_upsert)
    if claim.replay:
        answer = UserBatchAnswer.model_validate_json(bytes(claim.replay.body))
        details: dict[str, Detail] = {"replayed": True}
    else:
        patches = [item.patch for item in checked if item.patch is not None]
        outcomes = await batches.upsert(
            connection, resources.cipher, patches, actor=caller.key_id, keep_recorded=keep_recorded
        )
        answer = batch_answer(checked, outcomes)
        if not reads_people(caller.role):
            updated = [each.user_id for each in answer.results if each.user_id and each.status == "updated"]
            await users.count_writes(connection, updated)
        details = {"created": answer.created, "updated": answer.updated, "rejected": answer.rejected}
    audit.note(
        subjects=[each.user_id for each in answer.results if each.user_id and each.status != "rejected"],
        fields=fields_of(checked),
        details={"users": len(checked), **details},
    )
    if claim.replay:
        return claim.replay
    response = json_response(batch_document(caller.role, answer))
    await idempotency.keep(connection, claim, response, subject=None)
    return response


@router.post("/users/search", response_model=UserPage)
@allow(Role.OPERATOR)
@audited("users.search")
async def search_users(
    body: UserSearch,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    page: PageQuery,
    audit: AuditOf,
) -> Response:
    """Find profiles by e-mail address. Upper and lower case are equal. An operator gets them masked.

    The method is POST, because a URL must not contain the address.
    """
    after = page.position(_SEARCH, str)
    rows = await users.list_page(
        connection, resources.cipher, limit=page.rows_to_fetch, after=after[0] if after else None, email=body.email
    )
    return await _page_of(rows, page, caller.role, resources, _SEARCH, audit)


@router.get("/users", response_model=UserPage)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("users.list")
async def list_users(
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    page: PageQuery,
    audit: AuditOf,
    lifecycle_stage: Annotated[LifecycleStage | None, Query(description="Only users in this stage.")] = None,
    account_status: Annotated[AccountStatus | None, Query(description="Only users with this status.")] = None,
) -> Response:
    """List profiles, ordered by `user_id`. Only an admin gets personal attributes without masks."""
    after = page.position(_LIST, str)
    rows = await users.list_page(
        connection,
        resources.cipher,
        limit=page.rows_to_fetch,
        after=after[0] if after else None,
        stage=lifecycle_stage,
        status=account_status,
    )
    return await _page_of(rows, page, caller.role, resources, _LIST, audit)


def _full(stored: StoredUser, resources: Resources) -> UserProfile:
    return full_profile(stored, resources.settings.clv_expected_years)


async def _page_of(
    rows: list[StoredUser], page: PageRequest, role: Role, resources: Resources, name: str, audit: Audit
) -> Response:
    data, pagination = page.rows_and_pagination(name, rows, lambda row: (row.profile.user_id,))
    audit.note(subjects=[row.profile.user_id for row in data], fields=AUDITED_FIELDS)
    shown = await each(lambda row: masked_for(role, _full(row, resources)), data)
    return json_response({"data": shown, "pagination": pagination.model_dump()})


@router.get(
    "/users/{user_id}",
    response_model=UserProfile,
    responses=problems(UserNotFoundError, UserErasedError, tagged=True),
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("users.read")
async def get_user(
    user_id: UserIdInPath,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    audit: AuditOf,
    if_none_match: Annotated[
        str | None,
        Header(
            alias="If-None-Match", description="An earlier `ETag`. If the profile still has it, the status is 304."
        ),
    ] = None,
) -> Response:
    """Get a profile. Only an admin gets personal attributes without masks."""
    stored = await users.find(connection, resources.cipher, user_id)
    audit.note(fields=AUDITED_FIELDS)
    profile = _full(stored, resources)
    headers = {"ETag": etag(resources.cipher, caller.role, stored, profile)}
    if if_none_match_hits(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return json_response(masked_for(caller.role, profile), headers=headers)


@router.patch(
    "/users/{user_id}",
    response_model=UserProfile,
    responses=problems(UserNotFoundError, UserErasedError, ConsentRequiredError, PreconditionFailedError),
)
@allow(Role.INTEGRATOR)
@audited("users.change")
async def patch_user(
    user_id: UserIdInPath,
    body: UserPatch,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    audit: AuditOf,
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match", description="The known `ETag`. If the profile has changed since, the status is 412."
        ),
    ] = None,
) -> Response:
    """Change a profile by JSON merge patch (RFC 7396). The value null removes an optional attribute.

    If a patch changes nothing, `updated_at` and `ETag` don't change either. The response to an integrator doesn't
    tell whether anything has changed. It has only the attributes of the request, `user_id`, `created_at` and the
    time of the write.
    """
    sent = body.model_dump(exclude_unset=True)
    if sent.pop("user_id", user_id) != user_id:
        raise InvalidContentError([FieldError("/user_id", "read_only", "can't be changed")])
    locked = await users.lock_one(connection, resources.cipher, user_id)
    stored = locked.users[user_id]
    if if_match is not None:
        tags = etags(resources.cipher, caller.role, stored, _full(stored, resources))
        if not if_match_holds(if_match, tags):
            raise PreconditionFailedError
    audit.note(fields=attribute_names(sent))
    changed = rules.change(stored.profile, sent)
    times = {user_id: dict.fromkeys(by_attribute(sent))}
    if changed != stored.profile:
        updated = await users.update_locked(
            connection, resources.cipher, locked, [changed], actor=caller.key_id, times=times
        )
        await stages.record_of_callers(connection, resources.cipher, locked, updated)
        stored = updated[user_id]
    else:
        await attribute_times.record(connection, times)
    if not reads_people(caller.role):
        stored = await users.count_write(connection, stored)
    profile = _full(stored, resources)
    headers = {"ETag": etag(resources.cipher, caller.role, stored, profile)}
    return json_response(profile_for_writer(caller.role, stored, profile, sent), headers=headers)


@router.get(
    "/users/{user_id}/export",
    response_model=UserExport,
    responses={200: {"headers": _ATTACHED}, **problems(UserNotFoundError, UserErasedError)},
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("users.export")
async def export_user(
    user_id: UserIdInPath, connection: InTransaction, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Export all data of a user. Only an admin gets personal attributes without masks.

    The response is streamed. If the user is erased or the database becomes unreachable meanwhile, the response is
    incomplete and not valid JSON. In this case, repeat the request. A value that is damaged in the database is
    null.
    """
    stored = await users.find(connection, resources.cipher, user_id)
    export = await Export.begin(resources, connection, caller.role, stored)
    audit.note(fields=exported_fields())
    disposition = {"Content-Disposition": f'attachment; filename="{user_id}.json"'}
    return StreamingResponse(export.stream(), headers=disposition, media_type="application/json")
