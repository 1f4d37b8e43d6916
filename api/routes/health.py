"""`/health`: probes, without a key or a rate limit."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import ResourcesOf
from api.guard import GuardedRoute, public
from api.responses import json_response
from models.schemas.common import Check, Live, Ready, Reason

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
    """Check each dependency, at most once a second. `degraded` is still 200: the API takes requests."""
    report = await resources.health.report()
    checks = {"postgres": _check(report.postgres), "temporal": _check(report.temporal)}
    reasons = [Reason(code=code, detail=sentence) for code, sentence in report.reasons] or None
    if report.postgres and report.temporal:
        return _answer(Ready(status="degraded" if reasons else "ready", checks=checks, reasons=reasons), 200)
    return _answer(Ready(status="unready", checks=checks, reasons=reasons), 503)


def _answer(ready: Ready, status: int) -> Response:
    return json_response(ready.model_dump(exclude_none=True), status)


def _check(answers: bool) -> Check:
    return Check(status="ok" if answers else "unavailable")
