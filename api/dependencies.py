"""What a route can ask for: who is calling, the transaction, the resources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Path, Request

from api.audit import Audit, UnauditedAnswerError, is_refusal
from api.request_context import request_context_of
from api.resources import Resources
from models.errors import PerennialError, UnauthenticatedError, UserNotFoundError
from models.schemas.fields import is_user_id
from store.api_keys import AuthenticatedKey
from store.connection import Connection


async def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def _caller(request: Request) -> AuthenticatedKey:
    admission = request_context_of(request).admission
    if admission is None:  # a public route has no caller to ask for
        raise UnauthenticatedError
    return admission


async def _transaction(request: Request) -> AsyncIterator[Connection]:
    resources: Resources = request.app.state.resources
    audit = request_context_of(request).audit
    async with resources.database.connection() as connection:
        if audit is None:
            async with connection.transaction():
                yield connection
            return
        audit.in_transaction = True
        try:
            async with connection.transaction():
                yield connection
                await audit.write(connection)
        except PerennialError as error:
            if is_refusal(error):  # what it had noted is rolled back
                await audit.write_refusal(connection, error)
            raise


async def _audit(request: Request) -> Audit:
    audit = request_context_of(request).audit
    if audit is None:
        raise UnauditedAnswerError("the route declares no action")
    return audit


async def _user_id(
    user_id: Annotated[str, Path(description="1 to 128 of `A-Z a-z 0-9 . _ : -`", examples=["u-1"])],
) -> str:
    if not is_user_id(user_id):
        raise UserNotFoundError
    return user_id


ResourcesOf = Annotated[Resources, Depends(_resources)]
"""Settings, pools, keys and the Temporal client."""

Caller = Annotated[AuthenticatedKey, Depends(_caller)]
"""The key that the request was let in with."""

InTransaction = Annotated[Connection, Depends(_transaction, scope="function")]
"""A connection in the request's one transaction. It commits when the endpoint has returned, before the answer
goes out: what was answered is on disk. Effects outside Postgres must not happen inside: routes that have any
open their transactions themselves, with ``resources.database.transaction()``."""

AuditOf = Annotated[Audit, Depends(_audit)]
"""What the audit log gets of the request: note on it whose data is shown or changed."""

UserIdInPath = Annotated[str, Depends(_user_id)]
"""The `user_id` of the path; 404 where it can't be anybody's."""
