"""`/codec`: decrypts payloads of Temporal's histories for the Web UI.

The browser with the Web UI sends the payloads. It can send a key only if the Web UI has a login. So the embedded
stack also has a path with a secret token of that stack (ADR 0025). Each access is in the audit log before the
answer is sent: under the key, or under `system:web_ui`.
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
from models.schemas.common import DecodedPayloads, EncodedPayloads
from models.schemas.fields import is_user_id
from runtime.settings import Settings
from store.pacing import Pace


async def _web_ui(
    namespace: Annotated[str | None, Query(max_length=255)] = None,
    preserve_storage_refs: Annotated[bool | None, Query(alias="preserveStorageRefs")] = None,
) -> None:
    """Accept the query parameters of the Web UI. They are ignored: all namespaces have the same keys."""


class TokenRoute(GuardedRoute):
    """A route that checks the token in its path before anything else."""

    def get_route_handler(self) -> Handler:
        guarded = super().get_route_handler()

        async def handle(request: Request) -> Response:
            _require_token(request)
            return await guarded(request)

        return handle


router = APIRouter(route_class=GuardedRoute, tags=["codec"], dependencies=[Depends(_web_ui)])
embedded_router = APIRouter(route_class=TokenRoute, dependencies=[Depends(_web_ui)], include_in_schema=False)
"""The routes of the embedded stack, included if its Web UI has a token."""

_HEADERS = "content-type,x-namespace,authorization,x-api-key"
_DAY = "86400"
_ACTION = "payloads.decode"
_EMBEDDED = "/codec/{token}/decode"
_WEB_UI = "system:web_ui"
"""The actor in the audit log: anyone who opens the embedded stack's Web UI on the same machine."""


@router.post("/codec/decode", response_model=DecodedPayloads)
@allow()
@audited(_ACTION)
async def decode(body: EncodedPayloads, request: Request, resources: ResourcesOf, audit: AuditOf) -> Response:
    """Decrypt payloads of Temporal's histories: inputs, results, failures."""
    return await _decoded(body, request, resources, audit)


@router.options("/codec/decode", status_code=204, include_in_schema=False)
@public
async def preflight(request: Request, resources: ResourcesOf) -> Response:
    """Allow the pages of the Web UI to send payloads (CORS)."""
    return _preflight(request, resources.settings)


@embedded_router.post(_EMBEDDED)
@public
async def decode_in_embedded_stack(body: EncodedPayloads, request: Request, resources: ResourcesOf) -> Response:
    """Decrypt payloads for the embedded stack's own Web UI, whose codec address contains the token."""
    request_id = request_context_of(request).request_id
    async with Audit(resources.database, _ACTION, _WEB_UI, SYSTEM, request_id) as audit:
        return await _decoded(body, request, resources, audit)


@embedded_router.options(_EMBEDDED, status_code=204)
@public
async def preflight_in_embedded_stack(request: Request, resources: ResourcesOf) -> Response:
    """Allow the pages of the embedded stack's Web UI to send payloads (CORS)."""
    return _preflight(request, resources.settings)


async def _decoded(body: EncodedPayloads, request: Request, resources: Resources, audit: Audit) -> Response:
    codec = (await resources.require_temporal()).data_converter.payload_codec
    assert codec is not None  # runtime.temporal sets it on every client
    decoded: list[dict[str, Any]] = []
    errors: list[FieldError] = []
    people: set[str] = set()
    pace = Pace()
    for index, document in enumerate(body.payloads):
        try:
            given = json_format.ParseDict(document, Payload(), ignore_unknown_fields=True)
            [payload] = await codec.decode([given])
            await pace.rest()
        except (ValueError, json_format.ParseError):
            errors.append(FieldError(f"/payloads/{index}", "undecodable", "can't be decrypted with these keys"))
        else:
            decoded.append(json_format.MessageToDict(payload))
            if payload != given:  # an unencrypted payload isn't the platform's: its `user_id` may be anything
                people |= _people(payload)
    if errors:
        raise InvalidContentError(errors)
    audit.note(subjects=people, details={"payloads": len(decoded)})
    return json_response({"payloads": decoded}, headers=_allowed(request, resources.settings))


def _people(payload: Payload) -> set[str]:
    """The values of all members `user_id` in a payload."""
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
    """Answer 404 without the token, or under a host name that isn't loopback (DNS rebinding)."""
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
    """The headers that let the Web UI's pages read an answer."""
    origin = request.headers.get("origin", "")
    allowed = origin in _origins(settings)
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if allowed else {"Vary": "Origin"}


def _origins(settings: Settings) -> set[str]:
    """The origins of the Web UI's pages. On the loopback interface it has two names."""
    if not settings.temporal_ui_url:
        return set()
    parts = urlsplit(settings.temporal_ui_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    return {origin, origin.replace("//127.0.0.1", "//localhost")} if parts.hostname == "127.0.0.1" else {origin}
