"""Turns every failure into RFC 9457 problem details."""

from __future__ import annotations

import logging
from typing import cast

import asyncpg
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from temporalio.service import RPCError, RPCStatusCode

from api.request_context import request_context_of
from api.responses import problem_response
from models.errors import (
    BadRequestError,
    DataUnreadableError,
    InvalidContentError,
    MethodNotAllowedError,
    NotFoundError,
    PerennialError,
    StoreUnavailableError,
    TemporalUnavailableError,
)
from models.schemas.validation import MOST_LISTED_ERRORS, field_errors
from privacy.encryption import DecryptionError
from runtime.database import UNREACHABLE

logger = logging.getLogger("perennial.api")

_TEMPORAL_AWAY = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.ABORTED,
        RPCStatusCode.UNKNOWN,  # a connection that broke during the call
    }
)

_STORE_AWAY = (*UNREACHABLE, asyncpg.TransactionRollbackError)
"""Postgres is unreachable, or aborted a transaction (deadlock, serialization) that may be retried."""


def install_problem_handlers(app: FastAPI) -> None:
    """Register one handler for all expected failures. The middleware answers the others with 500."""
    expected = (PerennialError, RequestValidationError, HTTPException, RPCError, DecryptionError, *_STORE_AWAY)
    for kind in expected:
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    return problem_response(_translate(request, error), request_context_of(request).request_id)


def _translate(request: Request, error: Exception) -> PerennialError:
    if isinstance(error, PerennialError):
        return error
    if isinstance(error, RequestValidationError):
        found = error.errors()
        listed = field_errors(found[:MOST_LISTED_ERRORS], from_fastapi=True)
        return InvalidContentError(listed, count=len(found))
    if isinstance(error, HTTPException):
        return _http_error(request, error)
    if isinstance(error, RPCError) and error.status in _TEMPORAL_AWAY:
        return TemporalUnavailableError()
    if isinstance(error, DecryptionError):
        logger.error("stored data can't be decrypted: %s", error)
        return DataUnreadableError()
    if isinstance(error, _STORE_AWAY):
        return StoreUnavailableError()
    raise error


def _http_error(request: Request, error: HTTPException) -> PerennialError:
    """The router's own errors: no such path, or another method."""
    if error.status_code == MethodNotAllowedError.status:
        return MethodNotAllowedError(sorted(_methods_of(request)))
    if error.status_code == NotFoundError.status:
        return NotFoundError("There is nothing under this path.")
    if error.status_code < 500:
        return BadRequestError("The request can't be read.")
    raise error


def _methods_of(request: Request) -> set[str]:
    """All methods of the path. Each is a route of its own, and Starlette names only the methods of one."""
    path = request.scope["path"]
    methods = {
        method
        for context in iter_route_contexts(cast(FastAPI, request.app).routes)
        for method in context.methods or ()
        if context.path_regex.match(path)
    }
    return methods | {"HEAD"} if "GET" in methods else methods
