"""Work that doesn't progress although Postgres and Temporal answer: the reasons why a process is degraded.

Each check returns an unmet need or None. The texts hold no id and no value of a person.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from sqlmodel import col
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from checks.unmet import Unmet
from delivery.temporal import POLLER_SILENT, last_poll
from models.rules.sharding import SHARDS
from models.tables.people import DataKey as DataKeyRow
from models.temporal.system import PROJECTOR, projector_id
from privacy.encryption import Cipher, DecryptionError
from store.audit import checkpoints
from store.audit.verification import OVERDUE
from store.connection import Connection
from store.events import partitions
from store.events.partitions import PartitionState
from store.statements import select, sql, statement

STANDS_STILL = timedelta(seconds=15)
"""A shard with events to read moves its cursor several times a second."""
OUTBOX_BEHIND = timedelta(seconds=30)
"""A due call to Temporal takes less than a second."""
_OUTBOX_PAUSE_SECONDS = 0.7
"""A working outbox makes a call meanwhile; shorter than a look may last."""
_OLDEST_CALLS_SAMPLE = 20
OUTBOX_ATTEMPTS = 6
"""Temporal has refused a call for more than a minute."""
REDACTIONS_BEHIND = timedelta(minutes=10)
WORKER_SILENT = timedelta(seconds=15)
"""A loop sends a heartbeat every two seconds, and moves to another worker after five."""
_SAMPLE = 5
_RPC_TIMEOUT = timedelta(seconds=2)

# SQL text: a LATERAL. For each shard, one look-up in the index of the log's order.
_STANDING_SHARDS = sql(
    """SELECT count(*)
          FROM generate_series(0, CAST(:last_shard AS integer)) AS shards (shard)
          LEFT JOIN log_cursors c ON c.consumer = :consumer AND c.shard = shards.shard
         CROSS JOIN LATERAL (
               SELECT e.received_at FROM events e
                WHERE e.shard = shards.shard
                  AND (e.generation, e.xid, e.sequence)
                      > (coalesce(c.generation, 0), coalesce(c.xid, '0'), coalesce(c.sequence, 0))
                ORDER BY e.generation, e.xid, e.sequence LIMIT 1) AS next
         WHERE greatest(next.received_at, c.moved_at) < now() - CAST(:patience AS interval)"""
)
_OLDEST_CALLS = sql(
    """SELECT outbox_id, due_at FROM temporal_outbox
        WHERE NOT dead AND due_at < now() - CAST(:patience AS interval)
        ORDER BY due_at, outbox_id LIMIT :sample"""
)
_OUTBOX_FAILS = sql("SELECT EXISTS (SELECT FROM temporal_outbox WHERE attempts >= :attempts)")
_REDACTIONS = sql(
    "SELECT EXISTS (SELECT FROM redactions WHERE requested_at < now() - CAST(:patience AS interval))"
)
_KEYS = select(col(DataKeyRow.subject), col(DataKeyRow.wrapped)).where(col(DataKeyRow.wrapped).is_not(None))
_FIRST_KEYS = statement(_KEYS.order_by(col(DataKeyRow.subject)).limit(_SAMPLE))
_LAST_KEYS = statement(_KEYS.order_by(col(DataKeyRow.subject).desc()).limit(_SAMPLE))


async def projector(connection: Connection) -> Unmet | None:
    """Whether events wait in a shard whose cursor doesn't move."""
    standing = await _STANDING_SHARDS.fetchval(
        connection, consumer=PROJECTOR, last_shard=SHARDS - 1, patience=STANDS_STILL
    )
    if not standing:
        return None
    return Unmet(
        "projector_stands_still",
        f"Events wait in {standing} of {SHARDS} shards, and their cursors have not moved for "
        f"{STANDS_STILL.seconds} s: profiles don't follow.",
    )


async def outbox(connection: Connection) -> Unmet | None:
    """Whether calls to Temporal wait and none is made, or one is refused again and again.

    After many events at once calls wait too, and the oldest of them leave one after the other.
    """
    waiting = await _oldest_calls(connection)
    if waiting:
        await asyncio.sleep(_OUTBOX_PAUSE_SECONDS)
        if waiting <= await _oldest_calls(connection):
            text = (
                f"A call to Temporal has waited for more than {OUTBOX_BEHIND.seconds} s: the outbox doesn't move."
            )
            return Unmet("outbox_stands_still", text)
    if await _OUTBOX_FAILS.fetchval(connection, attempts=OUTBOX_ATTEMPTS):
        text = f"A call of the outbox has failed {OUTBOX_ATTEMPTS} times or more: see the worker's log."
        return Unmet("outbox_fails", text)
    return None


async def _oldest_calls(connection: Connection) -> set[tuple[int, datetime]]:
    rows = await _OLDEST_CALLS.fetch(connection, patience=OUTBOX_BEHIND, sample=_OLDEST_CALLS_SAMPLE)
    return {(row["outbox_id"], row["due_at"]) for row in rows}


async def redactions(connection: Connection) -> Unmet | None:
    if not await _REDACTIONS.fetchval(connection, patience=REDACTIONS_BEHIND):
        return None
    minutes = REDACTIONS_BEHIND.seconds // 60
    return Unmet("redactions_behind", f"A redaction of stored events has waited for more than {minutes} minutes.")


async def key_ring(connection: Connection, cipher: Cipher) -> Unmet | None:
    """Whether this process' key ring opens stored data keys, by a sample. One damaged key is no reason."""
    rows = [*await _FIRST_KEYS.fetch(connection), *await _LAST_KEYS.fetch(connection)]
    if not rows or any(_opens(cipher, subject, wrapped) for subject, wrapped in rows):
        return None
    return Unmet(
        "key_ring_opens_nothing",
        "The key file opens none of the stored data keys that were tried: it isn't the file of this database.",
    )


def _opens(cipher: Cipher, subject: str, wrapped: bytes) -> bool:
    try:
        cipher.unwrap(subject, wrapped)
    except (DecryptionError, IndexError, UnicodeDecodeError):  # a damaged key may have any form
        return False
    return True


async def partitions_ahead(connection: Connection, today: date | None = None) -> Unmet | None:
    """Whether the log has partitions of this month and the next."""
    found = await partitions.find_all(connection)
    attached = {each.begins.date() for each in found if each.state is PartitionState.ATTACHED}
    if attached.issuperset(partitions.months_ahead(today or datetime.now(UTC).date(), 1)):
        return None
    text = "The event log lacks a partition for this month or the next: see system/partitions."
    return Unmet("partition_missing", text)


async def audit(connection: Connection) -> Unmet | None:
    """Whether the audit log's checkpoints are behind."""
    if not await checkpoints.is_behind(connection, OVERDUE):
        return None
    hours = OVERDUE.seconds // 3600
    return Unmet("audit_behind", f"An hour of the audit log has no checkpoint {hours} h after its end.")


async def loops(system: Client, clock: Callable[[], float] = time.time) -> Unmet | None:
    """Whether a worker runs the system's jobs, by :func:`last_sign`."""
    found = await last_sign(system)
    if found is None:
        return _no_worker("No worker has started the system's jobs")
    if clock() - found.timestamp() <= WORKER_SILENT.seconds:
        return None
    return _no_worker(f"No worker has run the system's jobs for {WORKER_SILENT.seconds} s")


async def last_sign(system: Client) -> datetime | None:
    """The newest heartbeat or start of the first shard's projector; None if no worker has started it."""
    request = DescribeWorkflowExecutionRequest(
        namespace=system.namespace, execution=WorkflowExecution(workflow_id=projector_id(0))
    )
    try:
        found = await system.workflow_service.describe_workflow_execution(request, timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return None
    times = [found.workflow_execution_info.start_time]
    for each in found.pending_activities:
        times += [each.last_heartbeat_time, each.last_started_time]
    return max(each.ToDatetime(UTC) for each in times)


async def pollers(client: Client, task_queue: str, clock: Callable[[], float] = time.time) -> Unmet | None:
    """Whether a worker polls the task queue of instances."""
    newest = await last_poll(client, task_queue)
    if newest is not None and clock() - newest.timestamp() <= POLLER_SILENT.seconds:
        return None
    return _no_worker(f"No worker has polled the task queue of instances for {POLLER_SILENT.seconds} s")


def _no_worker(text: str) -> Unmet:
    return Unmet("worker_missing", f"{text}: nothing runs until `perennial worker` does.")
