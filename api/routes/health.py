"""`/health`: probes, without a key or a rate limit."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import ResourcesOf
from api.guard import GuardedRoute, public
from api.responses import json_response
from checks.lag import LogState
from models.schemas.common import Check, HolderView, LagView, Live, Ready, Reason

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
    answers = report.postgres and report.temporal
    status: Literal["ready", "degraded", "unready"] = "unready"
    if answers:
        status = "degraded" if reasons else "ready"
    found = Ready(status=status, checks=checks, reasons=reasons, **_log(report.log))
    return json_response(found.model_dump(exclude_none=True), 200 if answers else 503)


def _log(state: LogState | None) -> dict[str, Any]:
    if state is None:
        return {}
    lag = [
        LagView(consumer=each.consumer, shard=each.shard, seconds=round(each.seconds, 1), events=each.events)
        for each in state.lags
        if each.events
    ]
    return {"lag": lag or None, "held_by": HolderView(**vars(state.holder)) if state.holder else None}


def _check(answers: bool) -> Check:
    return Check(status="ok" if answers else "unavailable")
