"""`/retention`: how long data is kept, and what enforces it."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from starlette.responses import Response

from api import retention
from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf
from api.guard import GuardedRoute, allow, audited, not_audited
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.audit import Detail
from models.errors import DataTypeNotFoundError, RetentionRunNotFoundError, TemporalUnavailableError
from models.rules.retention import DATA_TYPES
from models.schemas.pages import Page
from models.schemas.retention import (
    DryRun,
    RetentionInput,
    RetentionRunInput,
    Retentions,
    RetentionView,
    RunResult,
    RunSummary,
    RunView,
)
from models.vocabulary import Role
from store.retention import periods, runs
from store.retention.periods import Retention
from store.retention.runs import StoredRun

router = APIRouter(route_class=GuardedRoute, tags=["retention"])

_RUNS = "retention-runs"


@router.get("/retention", response_model=Retentions)
@allow(Role.ADMIN)
@not_audited
async def list_retentions(connection: InTransaction) -> Response:
    """List the types of data, and how long each is kept."""
    return json_response(Retentions(data=[_view(each) for each in await periods.find_all(connection)]))


@router.post(
    "/retention/run",
    status_code=202,
    response_model=RunView,
    responses={200: {"model": DryRun, "description": "A dry run's counts."}, **problems(TemporalUnavailableError)},
)
@allow(Role.ADMIN)
@audited("retention.run")
async def run_retention(
    body: RetentionRunInput, resources: ResourcesOf, caller: Caller, audit: AuditOf
) -> Response:
    """Delete now what is past its period, which happens every day by itself; or count it with `dry_run`.

    202 says where to look for what the run has done. Runs at the same time share the work.
    """
    data_types = retention.known_types(body.data_types)
    told: dict[str, Detail] = {"dry_run": body.dry_run, "data_types": " ".join(data_types)}
    audit.note(details=told)
    if body.dry_run:
        return json_response(await retention.dry_run(resources, data_types))
    started = await retention.start(resources, data_types, actor=caller.key_id)
    audit.note(details={**told, "run_id": started.run_id})
    return json_response(_run(started), 202, headers={"Location": f"/retention/runs/{started.run_id}"})


@router.get("/retention/runs", response_model=Page[RunSummary])
@allow(Role.ADMIN)
@not_audited
async def list_runs(connection: InTransaction, page: PageQuery) -> Response:
    """List runs, newest first."""
    rows = await runs.page(connection, before=page.after(_RUNS, datetime, str), limit=page.fetch)
    data, pagination = page.cut(_RUNS, rows, lambda row: (row.started_at, row.run_id))
    return json_response(Page[RunSummary](data=[_summary(row) for row in data], pagination=pagination))


@router.get("/retention/runs/{run_id}", response_model=RunView, responses=problems(RetentionRunNotFoundError))
@allow(Role.ADMIN)
@not_audited
async def get_run(run_id: str, connection: InTransaction) -> Response:
    """Look at a run: what it has done so far, and whether it has ended."""
    return json_response(_run(await runs.find(connection, run_id)))


@router.get("/retention/{data_type}", response_model=RetentionView, responses=problems(DataTypeNotFoundError))
@allow(Role.ADMIN)
@not_audited
async def get_retention(data_type: str, connection: InTransaction) -> Response:
    """How many days a type of data is kept."""
    return json_response(_view(await periods.find(connection, data_type)))


@router.put("/retention/{data_type}", response_model=RetentionView, responses=problems(DataTypeNotFoundError))
@allow(Role.ADMIN)
@audited("retention.change")
async def set_retention(
    data_type: str, body: RetentionInput, resources: ResourcesOf, caller: Caller, audit: AuditOf
) -> Response:
    """Set how many days a type of data is kept.

    A shorter period of events holds for the next event in every process; what is past it goes with the next run.
    """
    kept = await retention.change(resources, audit, data_type, body.days, actor=caller.key_id)
    return json_response(_view(kept))


def _view(kept: Retention) -> RetentionView:
    declared = DATA_TYPES[kept.data_type]
    return RetentionView(**vars(kept), default_days=declared.default_days, description=declared.what)


def _summary(run: StoredRun) -> RunSummary:
    return RunSummary(
        run_id=run.run_id,
        status="running" if run.finished_at is None else "failed" if run.failed else "completed",
        requested_by=run.requested_by,
        data_types=list(run.data_types),
        failed=list(run.failed or ()),
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def _run(run: StoredRun) -> RunView:
    return RunView(**vars(_summary(run)), results=[RunResult(**vars(each)) for each in run.results])
