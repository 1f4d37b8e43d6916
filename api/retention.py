"""Runs of the retention, as an admin asks for them: counted, or started.

A run is started in Temporal first and its row written afterwards, by whoever comes first of the edge and the
run's own first activity: should the edge die in between, the run goes on and is listed, and the caller, who got
no answer, may ask again, since two runs share the work. The other way round a row could stay of a run that never
was.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from api.audit import Audit
from api.resources import Resources
from models.errors import FieldError, InvalidContentError
from models.rules.retention import DATA_TYPES, EXECUTION_LOGS
from models.schemas.retention import DryRun, DueData, DuePart
from models.temporal.public_text import PublicText
from models.temporal.retention import RETENTION, RetentionRun, retention_workflow_id
from runtime.temporal import RPC_TIMEOUT, keep_histories
from store.retention import periods, preview, runs
from store.retention.periods import Retention
from store.retention.runs import StoredRun


def known_types(given: Sequence[Any] | None) -> list[str]:
    """The types of data that are asked for, in the order of a run; raises :class:`InvalidContentError`."""
    if given is None:
        return list(DATA_TYPES)
    unknown = [
        FieldError(f"/data_types/{index}", "unknown_data_type", "is no type of data; GET /retention lists them")
        for index, each in enumerate(given)
        if not isinstance(each, str) or each not in DATA_TYPES
    ]
    if unknown:
        raise InvalidContentError(unknown)
    return [name for name in DATA_TYPES if name in given]


async def dry_run(resources: Resources, data_types: Sequence[str]) -> DryRun:
    """Count what a run would do; each type in statements of its own, so that no snapshot is held for long."""
    now = datetime.now(UTC)
    data = []
    for data_type in data_types:
        async with resources.database.connection() as connection:
            policy = await periods.find(connection, data_type)
            parts = await preview.count(connection, policy, now)
        data.append(
            DueData(
                data_type=data_type,
                days=policy.days,
                older_than=policy.older_than(now),
                rows=sum(part.rows or 0 for part in parts),
                parts=[DuePart(**vars(part)) for part in parts],
            )
        )
    return DryRun(dry_run=True, as_of=now, data=data)


async def start(resources: Resources, data_types: Sequence[str], *, actor: str) -> StoredRun:
    """Start a run; raises :class:`models.errors.TemporalUnavailableError`, and then there is none."""
    client = await resources.require_temporal()
    run = RetentionRun(run_id=uuid.uuid4().hex, requested_by=actor, data_types=list(data_types))
    await client.start_workflow(
        RETENTION,
        run,
        id=retention_workflow_id(run.run_id),
        task_queue=resources.settings.task_queue,
        static_summary=PublicText("Retention, asked for by an admin"),
        rpc_timeout=RPC_TIMEOUT,
    )
    async with resources.database.transaction() as connection:
        await runs.begin(connection, run.run_id, actor, data_types)
        return await runs.find(connection, run.run_id)


async def change(resources: Resources, audit: Audit, data_type: str, days: int | None, *, actor: str) -> Retention:
    """Set a retention, and have Temporal keep histories for as long as execution logs are kept."""
    async with resources.database.transaction() as connection:
        before = await periods.find(connection, data_type)
        kept = await periods.change(connection, data_type, days, actor=actor)
        audit.note(details={"data_type": data_type, "days": days, "days_before": before.days})
        await audit.write(connection)
    if kept.data_type == EXECUTION_LOGS and resources.temporal is not None:
        assert kept.days is not None  # the type needs a period
        await keep_histories(resources.temporal, timedelta(days=kept.days))
    return kept
