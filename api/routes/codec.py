"""`/codec`: opens what is encrypted in Temporal's histories, for those who may read it there.

Temporal's Web UI sends payloads here with the browser of whoever looks at it. It can send a key only where it has
a login of its own, so the embedded stack also has a path that is a secret of that stack; see ADR 0025. Either way
what was opened is in the audit log before it goes out, under the Web UI's own name where there is no key.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Query, Request
from google.protobuf import json_format
from starlette.responses import Response
from temporalio.api.common.v1 import Payload

from api.audit import Audit
from api.dependencies import AuditOf, ResourcesOf
from api.guard import GuardedRoute, Handler, allow, audited, public
from api.request_context import request_context_of
from api.resources import Resources
from api.responses import json_response
from models.audit import SYSTEM
from models.errors import FieldError, InvalidContentError, NotFoundError
from models.schemas.codec import DecodedPayloads, EncodedPayloads
from models.schemas.fields import is_user_id
from runtime.settings import Settings


async def _web_ui(
    namespace: Annotated[str | None, Query(max_length=255)] = None,
    preserve_storage_refs: Annotated[bool | None, Query(alias="preserveStorageRefs")] = None,
) -> None:
    """What the Web UI says beside the payloads; all namespaces have the same keys."""


class TokenRoute(GuardedRoute):
    """A route for who knows the token in its path; nothing else of a request is looked at first."""

    def get_route_handler(self) -> Handler:
        """The guard's handler, behind the token."""
        guarded = super().get_route_handler()

        async def handle(request: Request) -> Response:
            _require_token(request)
            return await guarded(request)

        return handle


router = APIRouter(route_class=GuardedRoute, tags=["codec"], dependencies=[Depends(_web_ui)])
embedded_router = APIRouter(route_class=TokenRoute, dependencies=[Depends(_web_ui)], include_in_schema=False)
"""What the embedded stack has beside it, where its Web UI is given a token."""

_HEADERS = "content-type,x-namespace,authorization,x-api-key"
_DAY = "86400"
_ACTION = "payloads.decode"
_EMBEDDED = "/codec/{token}/decode"
_WEB_UI = "system:web_ui"
"""Who asks by the token's path: whoever looks at the embedded stack's Web UI, on the same machine."""


@router.post("/codec/decode", response_model=DecodedPayloads)
@allow()
@audited(_ACTION)
async def decode(body: EncodedPayloads, request: Request, resources: ResourcesOf, audit: AuditOf) -> Response:
    """Open payloads of Temporal's histories: inputs, results, failures."""
    return await _decoded(body, request, resources, audit)


@router.options("/codec/decode", status_code=204, include_in_schema=False)
@public
async def preflight(request: Request, resources: ResourcesOf) -> Response:
    """Let the Web UI's pages ask."""
    return _preflight(request, resources.settings)


@embedded_router.post(_EMBEDDED)
@public
async def decode_in_embedded_stack(body: EncodedPayloads, request: Request, resources: ResourcesOf) -> Response:
    """The same for the embedded stack's own Web UI, whose address holds the stack's token."""
    exchange = request_context_of(request)
    exchange.audit = Audit(_ACTION, _WEB_UI, SYSTEM, exchange.request_id, user_id=None)
    return await _decoded(body, request, resources, exchange.audit)


@embedded_router.options(_EMBEDDED, status_code=204)
@public
async def preflight_in_embedded_stack(request: Request, resources: ResourcesOf) -> Response:
    """Let the embedded stack's Web UI ask."""
    return _preflight(request, resources.settings)


async def _decoded(body: EncodedPayloads, request: Request, resources: Resources, audit: Audit) -> Response:
    codec = (await resources.require_temporal()).data_converter.payload_codec
    assert codec is not None  # every client of ours has one
    opened: list[dict[str, Any]] = []
    errors: list[FieldError] = []
    people: set[str] = set()
    for index, document in enumerate(body.payloads):
        try:
            given = json_format.ParseDict(document, Payload(), ignore_unknown_fields=True)
            [payload] = await codec.decode([given])
        except (ValueError, json_format.ParseError):
            errors.append(FieldError(f"/payloads/{index}", "undecodable", "is no payload that our keys open"))
        else:
            opened.append(json_format.MessageToDict(payload))
            if payload != given:  # what wasn't encrypted isn't ours, and may call anything a user id
                people |= _people(payload)
    if errors:
        raise InvalidContentError(errors)
    audit.note(subjects=people, details={"payloads": len(opened)})
    return json_response({"payloads": opened}, headers=_allowed(request, resources.settings))


def _people(payload: Payload) -> set[str]:
    """The user ids that a payload names, as far as it says which they are."""
    try:
        return set(_user_ids(json.loads(payload.data)))
    except ValueError:
        return set()


def _user_ids(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        user_id = document.get("user_id")
        if isinstance(user_id, str) and is_user_id(user_id):
            yield user_id
        document = list(document.values())
    if isinstance(document, list):
        for each in document:
            yield from _user_ids(each)


def _require_token(request: Request) -> None:
    """404 for everybody else. A browser that was led here under another name (DNS rebinding) is refused too."""
    resources: Resources = request.app.state.resources
    wanted, token = resources.settings.codec_token, request.path_params["token"]
    if wanted is None or not hmac.compare_digest(token.encode(), wanted.encode()) or not _is_loopback(request):
        raise NotFoundError("There is nothing under this path.")


def _is_loopback(request: Request) -> bool:
    host = request.url.hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _preflight(request: Request, settings: Settings) -> Response:
    headers = _allowed(request, settings)
    if headers:
        headers |= {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": _DAY,
        }
    return Response(status_code=204, headers=headers)


def _allowed(request: Request, settings: Settings) -> dict[str, str]:
    """The headers that let the Web UI's pages read an answer; none for pages of others."""
    origin = request.headers.get("origin", "")
    allowed = origin in _origins(settings)
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if allowed else {"Vary": "Origin"}


def _origins(settings: Settings) -> set[str]:
    """Where the Web UI's pages come from; on this machine it has two names."""
    if not settings.temporal_ui_url:
        return set()
    parts = urlsplit(settings.temporal_ui_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    return {origin, origin.replace("//127.0.0.1", "//localhost")} if parts.hostname == "127.0.0.1" else {origin}
