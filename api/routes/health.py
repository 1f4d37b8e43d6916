"""`/health`: for probes; no key, no limit."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import ResourcesOf
from api.guard import GuardedRoute, public
from api.responses import json_response
from models.schemas.health import Check, Live, Ready

router = APIRouter(route_class=GuardedRoute, prefix="/health", tags=["health"])


@router.get("/live", response_model=Live)
@public
async def live() -> Response:
    """Whether the process answers."""
    return json_response(Live())


@router.get(
    "/ready",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "A dependency does not answer."}},
)
@public
async def ready(resources: ResourcesOf) -> Response:
    """Whether the process can work: each dependency, asked now, within a second."""
    postgres, temporal = await asyncio.gather(resources.postgres_answers(), resources.temporal_answers())
    checks = {"postgres": _check(postgres), "temporal": _check(temporal)}
    everything = postgres and temporal
    status: Literal["ready", "unready"] = "ready" if everything else "unready"
    return json_response(Ready(status=status, checks=checks), 200 if everything else 503)


def _check(answers: bool) -> Check:
    return Check(status="ok" if answers else "unavailable")
