"""Dependencies of routes: the caller, the transaction, the resources, the audit row."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request

from api.audit import Audit, UnauditedAnswerError
from api.request_context import request_context_of
from api.resources import Resources
from models.errors import UnauthenticatedError
from models.vocabulary import Purpose
from store.api_keys import AuthenticatedKey
from store.connection import Connection


async def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def _caller(request: Request) -> AuthenticatedKey:
    key = request_context_of(request).key
    if key is None:  # a public route
        raise UnauthenticatedError
    return key


async def _transaction(request: Request) -> Connection:
    context = request_context_of(request)
    opened = context.audit.transaction() if context.audit else request.app.state.resources.database.transaction()
    connection: Connection = await context.exit_stack.enter_async_context(opened)
    return connection


async def _audit(request: Request) -> Audit:
    audit = request_context_of(request).audit
    if audit is None:
        raise UnauditedAnswerError("the route declares no action")
    return audit


ResourcesOf = Annotated[Resources, Depends(_resources)]
"""Settings, pools, keys and the Temporal client."""

Caller = Annotated[AuthenticatedKey, Depends(_caller)]
"""The key that the request presented."""

InTransaction = Annotated[Connection, Depends(_transaction)]
"""A connection in the one transaction of the request. It commits after the endpoint has returned, and before
the answer is sent. A route with effects outside Postgres must not use it. Such a route opens its own
transactions with ``audit.transaction()`` or ``resources.database.transaction()``."""

AuditOf = Annotated[Audit, Depends(_audit)]
"""The audit row of the request. The endpoint notes in it the people whose data it shows or changes."""

UserIdInPath = Annotated[str, Path(description="1 to 128 of `A-Z a-z 0-9 . _ : -`", examples=["u-1"])]
"""The `user_id` of the path. The guard answers 404 if it can't be a user's id."""

KeepRecorded = Annotated[
    list[Purpose],
    Query(
        default_factory=list,
        description="Purposes for which a grant in the batch changes no recorded decision, such as a withdrawal. "
        "May be repeated. Without it a grant counts as the person's new decision.",
    ),
]
"""The purposes for which a batch leaves recorded consents as they are."""
