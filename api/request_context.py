"""The context of a request, and the outermost middleware: request ids, common headers, the access log, answers
with 500.

The middleware is pure ASGI, so it handles every answer, also 404, 405 and 500.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.audit import Audit
from api.responses import problem_response
from models.errors import PerennialError
from models.rules.personal_text import looks_personal
from runtime.telemetry import describe_error
from store.api_keys import WINDOW_SECONDS, AuthenticatedKey

_SCOPE_KEY = "perennial.request_context"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_CLOSED = 499
"""The status in the access log (nginx has the same) if the caller disconnected before the body was complete. No
answer was sent."""

logger = logging.getLogger("perennial.api")
access_logger = logging.getLogger("perennial.access")


@dataclass
class RequestContext:
    """State that the layers of one request share. The guard fills it."""

    request_id: str
    key: AuthenticatedKey | None = None
    """Set after the key was accepted, and the request counted against its limit."""
    audit: Audit | None = None
    """Set if the route is audited."""
    exit_stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Holds the request's transaction. Closed after the endpoint has returned, before the answer is sent."""


def request_context_of(connection: HTTPConnection) -> RequestContext:
    context: RequestContext = connection.scope[_SCOPE_KEY]
    return context


class ResponseAbortedError(Exception):
    """A response can't be completed after its beginning was sent. ``__cause__`` has the reason.

    The server closes the connection without the end of the body, so that the client detects it.
    """


class RequestContextMiddleware:
    """Gives every request a :class:`RequestContext`, and every response its headers and a line in the access
    log."""

    def __init__(self, app: ASGIApp, default_quota: int) -> None:
        self._app = app
        self._default_quota = default_quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = scope[_SCOPE_KEY] = RequestContext(_request_id(scope))
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_headers(message, context, self._default_quota)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ResponseAbortedError as error:
            cause = type(error.__cause__).__name__
            logger.warning("response aborted", extra=_where(scope, context) | {"error_type": cause})
        except ClientDisconnect:
            status = status or _CLIENT_CLOSED
        except Exception as error:  # noqa: BLE001 - the last resort: the caller sees nothing of it
            # The error's text may contain personal data, so the log gets only its type and lines.
            failure = describe_error(type(error), error.__traceback__)
            logger.error("unexpected failure", extra=_where(scope, context) | {"failure": failure})
            if not status:
                answer = PerennialError("The request failed unexpectedly.")
                await problem_response(answer, context.request_id)(scope, receive, send_with_headers)
        _log_access(scope, context, status, time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        chosen = str(given[0], "ascii")
        if not looks_personal(chosen):  # the audit log and logs contain it
            return chosen
    return uuid.uuid4().hex


def add_headers(message: Message, context: RequestContext, default_quota: int) -> None:
    """Add the common headers; the last two follow draft-ietf-httpapi-ratelimit-headers."""
    quota, remaining, reset = default_quota, default_quota, WINDOW_SECONDS
    if (key := context.key) is not None:
        quota, remaining, reset = key.quota, key.remaining, key.reset_seconds
    headers = MutableHeaders(scope=message)
    headers["X-Request-Id"] = context.request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")
    headers["RateLimit-Policy"] = f'"default";q={quota};w={WINDOW_SECONDS}'
    headers["RateLimit"] = f'"default";r={remaining};t={reset}'


def _log_access(scope: Scope, context: RequestContext, status: int, seconds: float) -> None:
    access_logger.info(
        "request",
        extra={
            "method": scope["method"] if scope["method"] in _METHODS else "(other)",
            **_where(scope, context),
            "status": status,
            "ms": round(seconds * 1000, 2),
            "key_id": context.key.key_id if context.key else None,
        },
    )


def _where(scope: Scope, context: RequestContext) -> dict[str, str]:
    """The request's id and route, for a log line. The route is a template, never the requested path, which may
    contain ids."""
    route = getattr(scope.get("route"), "path_format", "(none)")
    return {"request_id": context.request_id, "route": str(route)}
