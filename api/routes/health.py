"""`/health`: probes, without a key or a rate limit."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import ResourcesOf
from api.guard import GuardedRoute, public
from api.responses import json_response
from models.schemas.common import Check, Live, Ready

router = APIRouter(route_class=GuardedRoute, prefix="/health", tags=["health"])


@router.get("/live", response_model=Live)
@public
async def live() -> Response:
    """Check that the process answers."""
    return json_response(Live())


@router.get(
    "/ready",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "A dependency does not answer."}},
)
@public
async def ready(resources: ResourcesOf) -> Response:
    """Check each dependency, at most once a second. A check takes at most a second."""
    postgres, temporal = await resources.health()
    checks = {"postgres": _check(postgres), "temporal": _check(temporal)}
    if postgres and temporal:
        return json_response(Ready(status="ready", checks=checks))
    return json_response(Ready(status="unready", checks=checks), 503)


def _check(answers: bool) -> Check:
    return Check(status="ok" if answers else "unavailable")
