"""`/retention`: retention periods, and the runs that enforce them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf
from api.guard import GuardedRoute, allow, audited, not_audited
from api.openapi import problems
from api.pages import PageQuery
from api.resources import Resources
from api.responses import json_response
from models.audit import Detail
from models.errors import (
    DataTypeNotFoundError,
    FieldError,
    InvalidContentError,
    RetentionRunNotFoundError,
    TemporalUnavailableError,
)
from models.rules.retention import AUDIT, DATA_TYPES, EXECUTION_LOGS
from models.schemas.common import Page
from models.schemas.retention import (
    DryRun,
    DueData,
    DuePart,
    RetentionInput,
    RetentionRunInput,
    Retentions,
    RetentionView,
    RunResult,
    RunSummary,
    RunView,
)
from models.temporal.public_text import PublicText
from models.temporal.system import RETENTION, Queue, RetentionRun, retention_id, system_task_queue
from models.vocabulary import Role
from privacy.audit_chain import CheckpointKey
from runtime.provisioning import ensure_namespace, in_namespace
from runtime.temporal import RPC_TIMEOUT, keep_histories
from store.retention import periods, preview, runs
from store.retention.periods import Retention
from store.retention.runs import StoredRun

router = APIRouter(route_class=GuardedRoute, tags=["retention"])

_RUNS = "retention-runs"


@router.get("/retention", response_model=Retentions)
@allow(Role.ADMIN)
@not_audited
async def list_retentions(connection: InTransaction) -> Response:
    """List the data types with their retention periods."""
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
    """Delete expired data now, as the daily run does; with `dry_run`, count it.

    The `Location` of a 202 shows the run's progress. Concurrent runs share the work.
    """
    data_types = _known_types(body.data_types)
    details: dict[str, Detail] = {"dry_run": body.dry_run, "data_types": " ".join(data_types)}
    audit.note(details=details)
    if body.dry_run:
        return json_response(await _dry_run(resources, data_types))
    started = await _start(resources, data_types, actor=caller.key_id)
    audit.note(details={**details, "run_id": started.run_id})
    return json_response(_run(started), 202, headers={"Location": f"/retention/runs/{started.run_id}"})


@router.get("/retention/runs", response_model=Page[RunSummary])
@allow(Role.ADMIN)
@not_audited
async def list_runs(connection: InTransaction, page: PageQuery) -> Response:
    """List runs, the newest first."""
    rows = await runs.page(connection, before=page.position(_RUNS, datetime, str), limit=page.rows_to_fetch)
    data, pagination = page.rows_and_pagination(_RUNS, rows, lambda row: (row.started_at, row.run_id))
    return json_response(Page[RunSummary](data=[_summary(row) for row in data], pagination=pagination))


@router.get("/retention/runs/{run_id}", response_model=RunView, responses=problems(RetentionRunNotFoundError))
@allow(Role.ADMIN)
@not_audited
async def get_run(run_id: str, connection: InTransaction) -> Response:
    """Get a run with its status and its results so far."""
    return json_response(_run(await runs.find(connection, run_id)))


@router.get("/retention/{data_type}", response_model=RetentionView, responses=problems(DataTypeNotFoundError))
@allow(Role.ADMIN)
@not_audited
async def get_retention(data_type: str, connection: InTransaction) -> Response:
    """Get the retention period of a data type, in days."""
    return json_response(_view(await periods.find(connection, data_type)))


@router.put("/retention/{data_type}", response_model=RetentionView, responses=problems(DataTypeNotFoundError))
@allow(Role.ADMIN)
@audited("retention.change")
async def set_retention(
    data_type: str, body: RetentionInput, resources: ResourcesOf, caller: Caller, audit: AuditOf
) -> Response:
    """Set the retention period of a data type, in days.

    A shorter period of events applies to the next event in every process. The next run deletes expired data.
    """
    async with audit.transaction() as connection:
        before = await periods.find(connection, data_type)
        sealed = data_type == AUDIT and body.days is not None
        seal = CheckpointKey(resources.cipher).seal(body.days or 0) if sealed else None
        retention = await periods.change(connection, data_type, body.days, actor=caller.key_id, seal=seal)
        audit.note(details={"data_type": data_type, "days": body.days, "days_before": before.days})
    if data_type == EXECUTION_LOGS and resources.temporal is not None:
        assert retention.days is not None  # the type needs a period
        # After a crash before this line, the next retention run sets it.
        await keep_histories(resources.temporal, timedelta(days=retention.days))
    return json_response(_view(retention))


def _known_types(requested: Sequence[Any] | None) -> list[str]:
    """The requested data types in the order of a run. Raises :class:`InvalidContentError`."""
    if requested is None:
        return list(DATA_TYPES)
    unknown = [
        FieldError(f"/data_types/{index}", "unknown_data_type", "is no data type; GET /retention lists them")
        for index, each in enumerate(requested)
        if not isinstance(each, str) or each not in DATA_TYPES
    ]
    if unknown:
        raise InvalidContentError(unknown)
    return [name for name in DATA_TYPES if name in requested]


async def _dry_run(resources: Resources, data_types: Sequence[str]) -> DryRun:
    now = datetime.now(UTC)
    data = []
    for data_type in data_types:
        # No transaction around the loop: it would hold one snapshot for all the counts.
        async with resources.database.connection() as connection:
            retention = await periods.find(connection, data_type)
            parts = await preview.count(connection, retention, now)
        data.append(
            DueData(
                data_type=data_type,
                days=retention.days,
                older_than=retention.older_than(now),
                rows=sum(part.rows or 0 for part in parts),
                parts=[DuePart(**vars(part)) for part in parts],
            )
        )
    return DryRun(dry_run=True, as_of=now, data=data)


async def _start(resources: Resources, data_types: Sequence[str], *, actor: str) -> StoredRun:
    """Start a run. Raises :class:`TemporalUnavailableError`; then no run was started.

    The API starts the run in Temporal, and then inserts its row, as does the run's first activity. If the API dies
    in between, the run is listed nevertheless, and a second request shares its work. In the opposite order a crash
    would leave the row of a run that never started.
    """
    settings = resources.settings
    system = in_namespace(await resources.require_temporal(), settings.system_namespace)
    await ensure_namespace(system)  # maybe no worker has created it yet
    run = RetentionRun(run_id=uuid.uuid4().hex, requested_by=actor, data_types=list(data_types))
    await system.start_workflow(
        RETENTION,
        run,
        id=retention_id(run.run_id),
        task_queue=system_task_queue(settings.task_queue, Queue.MAINTENANCE),
        static_summary=PublicText("Retention, requested by an admin"),
        rpc_timeout=RPC_TIMEOUT,
    )
    async with resources.database.transaction() as connection:
        await runs.begin(connection, run.run_id, actor, data_types)
        return await runs.find(connection, run.run_id)


def _view(retention: Retention) -> RetentionView:
    declared = DATA_TYPES[retention.data_type]
    return RetentionView(**vars(retention), default_days=declared.default_days, description=declared.description)


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
