"""What belongs to every request and response, whatever becomes of them: ids, limits, log line, last resort.

Pure ASGI, outermost but one: an answer of any layer, also 404, 405 and 500, passes through here.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.audit import Audit
from api.responses import problem_response
from models.errors import PerennialError
from runtime.telemetry import describe_error
from store.api_keys import WINDOW_SECONDS, AuthenticatedKey

_SCOPE_KEY = "perennial.exchange"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_access_log = logging.getLogger("perennial.access")
_error_log = logging.getLogger("perennial.api")


@dataclass
class RequestContext:
    """One request and its response. ``admission`` is there once a key was accepted, and ``audit`` if the route
    touches personal data."""

    request_id: str
    default_quota: int
    admission: AuthenticatedKey | None = None
    audit: Audit | None = None

    @property
    def rate_headers(self) -> dict[str, str]:
        """The two header fields of draft-ietf-httpapi-ratelimit-headers."""
        caller = self.admission
        quota = caller.quota if caller else self.default_quota
        remaining = caller.remaining if caller else quota
        reset = caller.reset_seconds if caller else WINDOW_SECONDS
        return {
            "RateLimit-Policy": f'"default";q={quota};w={WINDOW_SECONDS}',
            "RateLimit": f'"default";r={remaining};t={reset}',
        }


def request_context_of(connection: HTTPConnection) -> RequestContext:
    """The exchange that a request belongs to."""
    exchange: RequestContext = connection.scope[_SCOPE_KEY]
    return exchange


class ResponseAbortedError(Exception):
    """An answer whose beginning is out can't be finished, for the reason that is its cause.

    It ends without its end, and the server closes the connection, so that nobody takes the part for the whole.
    """


class RequestContextMiddleware:
    """Gives every request its :class:`RequestContext`, and every response its headers and its line in the log."""

    def __init__(self, app: ASGIApp, default_quota: int) -> None:
        self._app = app
        self._default_quota = default_quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; anything but HTTP passes untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = RequestContext(_request_id(scope), self._default_quota)
        scope[_SCOPE_KEY] = exchange
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, exchange, scope)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ResponseAbortedError as error:
            _log_broken_off(error, exchange, scope)
        except ClientDisconnect:
            status = status or _HUNG_UP
        except Exception as error:  # noqa: BLE001 - the last resort; nothing of it may reach the caller
            _log_failure(error, exchange, scope)
            if not status:
                response = problem_response(
                    PerennialError("The request failed unexpectedly."), exchange.request_id
                )
                await response(scope, receive, send_with_headers)
        _log_access(exchange, scope, status, time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return str(given[0], "ascii")
    return uuid.uuid4().hex


def _add_headers(message: Message, exchange: RequestContext, scope: Scope) -> None:
    headers = MutableHeaders(raw=message.setdefault("headers", []))
    headers["X-Request-Id"] = exchange.request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")
    for name, value in exchange.rate_headers.items():
        headers[name] = value
    message["headers"] = headers.raw


def route_template(scope: Scope) -> str:
    """The path of the route that was taken, with its parameters unnamed; never the path that was asked for."""
    route = scope.get("route")
    return str(getattr(route, "path_format", "(none)"))


def _log_access(exchange: RequestContext, scope: Scope, status: int, seconds: float) -> None:
    _access_log.info(
        "request",
        extra={
            "method": scope["method"] if scope["method"] in _METHODS else "(other)",
            "route": route_template(scope),
            "status": status,
            "ms": round(seconds * 1000, 2),
            "request_id": exchange.request_id,
            "key_id": exchange.admission.key_id if exchange.admission else None,
        },
    )


_HUNG_UP = 499
"""In the log, as elsewhere: the caller went before having sent all of the body, so that nobody was answered."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _log_broken_off(error: ResponseAbortedError, exchange: RequestContext, scope: Scope) -> None:
    _error_log.warning(
        "an answer broke off",
        extra={
            "request_id": exchange.request_id,
            "route": route_template(scope),
            "error_type": type(error.__cause__).__name__,
        },
    )


def _log_failure(error: Exception, exchange: RequestContext, scope: Scope) -> None:
    """The type and the places of an unexpected failure, never its text, which may hold anything."""
    _error_log.error(
        "unexpected failure",
        extra={
            "request_id": exchange.request_id,
            "route": route_template(scope),
            "failure": describe_error(type(error), error.__traceback__),
        },
    )
