"""`/openapi.json` and `/docs`: public, and served from here alone."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from api.docs_page import render
from api.guard import GuardedRoute, public

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

_CACHE = {"Cache-Control": "public, max-age=300"}
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@router.get("/openapi.json")
@public
async def openapi_document(request: Request) -> Response:
    """The OpenAPI 3.1 document."""
    document: dict[str, Any] = request.app.openapi()
    return Response(orjson.dumps(document), headers=_CACHE, media_type="application/json")


@router.get("/docs")
@public
async def documentation(request: Request) -> Response:
    """The reference as a page, without scripts and without anything from elsewhere."""
    return HTMLResponse(render(request.app.openapi()), headers={**_CACHE, "Content-Security-Policy": _POLICY})
