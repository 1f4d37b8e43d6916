"""Serves `/openapi.json`, and `/docs` with the files that its page loads. No path needs an API key."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request
from starlette.responses import HTMLResponse, Response

from api.docs_page import ASSETS, CONTENT_SECURITY_POLICY, PAGE
from api.guard import GuardedRoute, public
from api.responses import if_none_match_hits
from models.errors import NotFoundError

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

_CACHE = {"Cache-Control": "public, max-age=300"}


@router.get("/openapi.json")
@public
async def openapi_document(request: Request) -> Response:
    """Serve the OpenAPI document. The application builds the document once, when it is created."""
    document: dict[str, Any] = request.app.openapi()
    return Response(orjson.dumps(document), headers=_CACHE, media_type="application/json")


@router.get("/docs")
@public
async def documentation() -> Response:
    """Serve the HTML page of Swagger UI."""
    return HTMLResponse(PAGE, headers={**_CACHE, "Content-Security-Policy": CONTENT_SECURITY_POLICY})


@router.get("/docs/{asset}")
@public
async def documentation_asset(asset: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Serve a script, style sheet or image that the HTML page loads."""
    found = ASSETS.get(asset)
    if found is None:
        raise NotFoundError("There is nothing here.")
    headers = {**_CACHE, "ETag": found.etag}
    if if_none_match_hits(if_none_match, found.etag):
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)
