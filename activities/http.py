"""The activity that sends a journey's requests to services of the operator.

A request goes to the URL of a setting. So no data can lead it to another host, and the service may have a private
address. If the worker dies:

1. before the request leaves: the next attempt sends it.
2. after that, before :mod:`activities.recording` has stored the answer: the next attempt sends the request again,
   with the same `Idempotency-Key`. The service must answer it as the first time, without another effect.

Error texts name the path without its values, and no part of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.retries import HTTP_STATUS
from delivery.http import AnswerUnusableError, FullAnswer, Outbound, UnreachableError, is_refusal
from models.temporal.execution import HttpAnswer, HttpRequest
from runtime.settings import ConfigurationError, Service

LONGEST_ANSWER = 256 * 1024
"""Bytes of a body: far below the 2 MB that Temporal takes for the result of an activity."""
_PATH = re.compile(r"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|\{[a-z][a-z0-9_]*\})*)+")
_PLACEHOLDER = re.compile(r"\{([a-z0-9_]+)\}")


class HttpRequests:
    def __init__(self, services: Mapping[str, Service]) -> None:
        """``services``: :attr:`runtime.settings.Settings.services`. Raises :class:`ConfigurationError`."""
        self._services = services
        try:
            self._outbound = Outbound(loopback=False, own=[each.url for each in services.values() if each.url])
        except ValueError:
            raise ConfigurationError("The URL of a service has a host that the worker can't use.") from None

    @activity.defn(name="http.request")
    async def request(self, request: HttpRequest) -> HttpAnswer:
        """Send a request; skip it if its service has no URL.

        Fails for good with an answer that no retry mends: 3xx, 4xx other than 408, 425 and 429, a body that is too
        long or no JSON. Temporal retries after 5xx, after those three and without an answer. A `Retry-After`
        extends the pause and never shortens it.
        """
        service = self._services.get(request.base)
        if service is None:
            raise _final("UnknownSetting", f"there is no setting {_setting(request)} for an HTTP step")
        if service.url is None:
            return HttpAnswer(status=None, skipped=True)
        url = service.url.rstrip("/") + _target(request)
        try:
            answer = await self._outbound.request(
                request.method,
                url,
                _content(request),
                _headers(request, service),
                longest=LONGEST_ANSWER,
                accept=request.accept,
            )
        except UnreachableError as error:
            raise ApplicationError(f"{_called(request)}: {error}", type="HttpUnreachable") from None
        except AnswerUnusableError as error:
            raise _final("HttpAnswerUnusable", f"{_called(request)}: {error}") from None
        _check_status(request, answer)
        return HttpAnswer(status=answer.status, body=_json(request, answer))


def _check_status(request: HttpRequest, answer: FullAnswer) -> None:
    if answer.taken or answer.status in request.accept:
        return
    text = f"{_called(request)}: the answer is {answer.status}"
    if answer.status < 400 or is_refusal(answer.status):
        raise _final(HTTP_STATUS, text)
    raise ApplicationError(text, type=HTTP_STATUS, next_retry_delay=answer.retry_after)


def _headers(request: HttpRequest, service: Service) -> dict[str, str]:
    headers = {
        "accept": "application/json",
        "user-agent": "Perennial",
        "idempotency-key": request.step_context.idempotency_key,
    }
    if request.body is not None:
        headers["content-type"] = "application/json"
    if service.token is not None:
        headers["authorization"] = f"Bearer {service.token}"
    return headers


def _content(request: HttpRequest) -> bytes | None:
    return None if request.body is None else orjson.dumps(request.body)


def _target(request: HttpRequest) -> str:
    """The path with its values, and the query. No value can add a segment, or lead to another one."""
    if _PATH.fullmatch(request.path) is None:
        raise _final("InvalidRequest", "the path of an HTTP step must begin with / and have no query")
    if missing := [name for name in _PLACEHOLDER.findall(request.path) if not request.values.get(name)]:
        raise _final("InvalidRequest", f"{_called(request)}: '{missing[0]}' has no value")
    path = _PLACEHOLDER.sub(lambda name: quote(request.values[name[1]], safe=""), request.path)
    if not {".", ".."}.isdisjoint(path.split("/")):
        raise _final("InvalidRequest", f"{_called(request)}: a segment of the path is made of dots")
    return f"{path}?{urlencode(request.query)}" if request.query else path


def _json(request: HttpRequest, answer: FullAnswer) -> Any:
    kind = answer.content_type
    if not answer.body or not (kind == "application/json" or kind.endswith("+json")):
        return None
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        raise _final("HttpAnswerUnusable", f"{_called(request)}: the answer is no JSON") from None


def _called(request: HttpRequest) -> str:
    return f"{request.method} {request.path} of {_setting(request)}"


def _setting(request: HttpRequest) -> str:
    return f"PERENNIAL_{request.base.upper()}"


def _final(kind: str, text: str) -> ApplicationError:
    return ApplicationError(text, type=kind, non_retryable=True)
