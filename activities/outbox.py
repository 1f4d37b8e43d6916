"""Delivers the entries of the Temporal outbox: signals, starts by trigger or bulk, replays, cancels, callbacks.

Each entry is delivered at least once and takes effect once. The workflow ignores a repeated event id. The id of a
triggered instance is derived from the event's id. A reset is not repeated while its new run is open. If the worker
dies:

1. before the call to Temporal: the entry stays, and is delivered later.
2. after it, before the entry is removed: the entry is delivered again, without an effect.

While Temporal is unavailable, the worker retries entries every two seconds and counts no attempt. An entry that
fails for another reason is retried after growing pauses, and delays no other. A connection that breaks during a
call may give any status, so an attempt counts only if Temporal answers a health check after it.

Temporal may not know an instance that a run has recorded. The entries of that instance never become dead: the
worker retries them until Temporal knows it, or the reconciler has ended it. So a worker that connects to the wrong
Temporal loses nothing, not even the cancellation after a withdrawal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.loops import turn
from activities.replays import Replays
from delivery.temporal import RunUnknownError, describe, handle_of, signal_event, start_instance
from models.rules.triggers import DEFAULT_MAX_AGE
from models.temporal.execution import RecordedEvent
from models.temporal.public_text import PublicText
from models.temporal.starting import Startable
from models.temporal.system import CALLBACK, CallbackDue, Queue, callback_id, system_task_queue
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from runtime.temporal import RPC_TIMEOUT
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.instances import attempts, bulks, decisions, instances, starting, terminal, waits
from store.instances.decisions import RefusedTrigger
from store.instances.starting import KeyRunningError, StartRequest
from store.outbox import OutboxEntry, StoredOutboxEntry
from store.users import data_keys

logger = logging.getLogger("perennial.outbox")

CONCURRENT_DELIVERIES = 32
"""Enough to keep Temporal busy, too few to overload it."""
IDLE_SECONDS = 0.1
STARTED_BY = "trigger"
UNAVAILABLE = frozenset(
    {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.RESOURCE_EXHAUSTED}
)
"""RPC statuses which mean that Temporal is unavailable or overloaded."""
UNAVAILABLE_PAUSE = timedelta(seconds=2)
STARTING_PAUSE = timedelta(seconds=5)
ENDING_PAUSE = timedelta(seconds=1)
START_WITHIN = timedelta(minutes=1)
"""Far longer than the API and the outbox take to start a stored instance, or to give up."""


class EntryOutcome(Enum):
    DELIVERED = auto()
    """Temporal has accepted the call, or the entry no longer has a recipient."""
    FAILED = auto()
    UNAVAILABLE = auto()
    STARTING = auto()
    """The run of a cancelled instance may still reach Temporal. Retries are no failures, and end by themselves."""
    ENDING = auto()
    """An exit is about to end the instance that holds the key of this start. Retries are no failures either."""
    UNKNOWN = auto()
    """Temporal doesn't know an instance that it should know."""


class _StillStartingError(Exception):
    """The run of a cancelled instance may still reach Temporal."""


class _StillEndingError(Exception):
    """An exit is about to end the instance that holds the key of a start."""


class Outbox:
    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        client: Client,
        system: Client,
        task_queue: str,
        startables: Mapping[str, Startable],
    ) -> None:
        """``client`` is for the instances' namespace, ``system`` for the one in which callbacks run."""
        self._database = database
        self._cipher = cipher
        self._client = client
        self._system = system
        self._task_queue = task_queue
        self._startables = startables
        self._replays = Replays(database, cipher, client, task_queue, startables)

    @activity.defn(name="outbox.deliver")
    async def deliver(self) -> None:
        """Deliver due entries for a turn."""
        async with turn() as has_time:
            await self.deliver_while(has_time)

    async def deliver_while(self, condition: Callable[[], bool]) -> None:
        """The loop of :meth:`deliver`. It cancels deliveries at its end, and the next turn repeats them."""
        deliveries: dict[asyncio.Task[None], int] = {}
        try:
            while condition():
                for stored in await self._due(CONCURRENT_DELIVERIES - len(deliveries), list(deliveries.values())):
                    deliveries[asyncio.create_task(self._deliver(stored))] = stored.outbox_id
                if not deliveries:
                    await asyncio.sleep(IDLE_SECONDS)
                    continue
                done, _ = await asyncio.wait(deliveries, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del deliveries[task]
        finally:
            for task in deliveries:
                task.cancel()
            await asyncio.gather(*deliveries, return_exceptions=True)

    async def _due(self, limit: int, except_ids: list[int]) -> list[StoredOutboxEntry]:
        if limit <= 0:
            return []
        try:
            async with self._database.connection() as connection:
                return await outbox.due(connection, limit, except_ids)
        except UNREACHABLE:
            return []

    async def _deliver(self, stored: StoredOutboxEntry) -> None:
        try:
            outcome = await self._attempt(stored.entry)
            if isinstance(outcome, RefusedTrigger):
                await self._refuse(stored, outcome)
                return
            async with self._database.connection() as connection:
                await _record(connection, stored, outcome)
        except UNREACHABLE:
            logger.warning("the outbox waits for Postgres")
            await asyncio.sleep(IDLE_SECONDS)

    async def _refuse(self, stored: StoredOutboxEntry, refused: RefusedTrigger) -> None:
        """Remove a start that was refused, and record the decision in the same transaction.

        So a crash, or another worker with the same entry, never counts it twice.
        """
        async with self._database.transaction() as connection:
            await locks.share(connection, [refused.user_id])
            if await outbox.remove(connection, stored.outbox_id):
                await decisions.record(connection, [refused])

    async def _attempt(self, entry: OutboxEntry) -> EntryOutcome | RefusedTrigger:
        """Deliver one entry. Raises only if Postgres is unavailable; other errors concern this entry alone."""
        try:
            refused = await self._call(entry)
        except (RunUnknownError, RPCError) as error:
            status = error.status if isinstance(error, RPCError) else RPCStatusCode.NOT_FOUND
            logger.warning(
                "Temporal did not take an outbox entry", extra={"kind": entry.kind, "status": status.name}
            )
            if status is RPCStatusCode.NOT_FOUND:
                return EntryOutcome.UNKNOWN
            if status in UNAVAILABLE or not await self._temporal_answers():
                return EntryOutcome.UNAVAILABLE
            return EntryOutcome.FAILED
        except _StillStartingError:
            return EntryOutcome.STARTING
        except _StillEndingError:
            return EntryOutcome.ENDING
        except UNREACHABLE:
            raise
        except Exception:
            logger.exception("an outbox entry can't be delivered", extra={"kind": entry.kind})
            return EntryOutcome.FAILED
        return refused or EntryOutcome.DELIVERED

    async def _temporal_answers(self) -> bool:
        try:
            return await self._client.service_client.check_health(timeout=RPC_TIMEOUT)
        except RPCError:
            return False

    async def _call(self, entry: OutboxEntry) -> RefusedTrigger | None:
        """Returns the decision of a start that is refused."""
        match entry.kind:
            case "signal":
                await self._signal(entry)
            case "start":
                return await self._start(entry)
            case "execute":
                await self._execute(entry)
            case "replay":
                await self._replays.deliver(entry.event_id)
            case "cancel":
                await self._cancel(entry)
            case "callback":
                await self._start_callback(entry)
        return None

    async def _signal(self, entry: OutboxEntry) -> None:
        event = RecordedEvent(
            event_id=entry.event_id,
            event_type=entry.event_type,
            timestamp=entry.event_timestamp,
            step=entry.step,
        )
        if not await signal_event(self._client, entry.workflow_id, entry.instance_id, event):
            await self._check_known(entry)

    async def _check_known(self, entry: OutboxEntry) -> None:
        """Raise :class:`RunUnknownError` if a run has recorded the unfinished instance, and Temporal has no run.

        Either this is the wrong Temporal, or it has lost the instance. The reconciler decides (ADR 0029).
        """
        async with self._database.connection() as connection:
            found = await instances.unfinished(connection, [entry.instance_id])
        if any(each.run_id is not None for each in found):
            await describe(self._client, entry.workflow_id, entry.instance_id)

    async def _start(self, entry: OutboxEntry) -> RefusedTrigger | None:
        """Start a triggered instance. The row comes first (ADR 0008). Returns the decision of a refused start.

        There is none for a user who has been erased, or for a workflow that this worker doesn't know.
        """
        workflow = self._startables.get(entry.workflow_id)
        if workflow is None:
            return None
        request = StartRequest(
            instance_id=entry.instance_id,
            user_id=entry.user_id,
            started_by=STARTED_BY,
            parameters=None,
            event=RecordedEvent(
                event_id=entry.event_id, event_type=entry.event_type, timestamp=entry.event_timestamp
            ),
        )
        try:
            async with self._database.transaction() as connection:
                stored = await starting.start(connection, self._cipher, workflow, request)
        except starting.INELIGIBLE as error:
            if isinstance(error, KeyRunningError) and await self._is_ending(error.instance_id, entry):
                raise _StillEndingError from error
            reason = starting.NOT_STARTED.get(type(error))
            if reason is None:
                return None
            return RefusedTrigger(entry.workflow_id, entry.user_id, reason, entry.event_id)
        # A begun instance was started by an earlier delivery.
        if not stored.begun:
            await start_instance(self._client, self._task_queue, stored.new, workflow.description)
        return None

    async def _is_ending(self, holder: str, entry: OutboxEntry) -> bool:
        """Whether an exit ends the instance that holds the key, or it has just ended: the start is tried again.

        But not for longer than a trigger may be old, since a pause may hold the exit for days.
        """
        if datetime.now(UTC) - entry.event_timestamp > DEFAULT_MAX_AGE:
            return False
        async with self._database.connection() as connection:
            if not await instances.unfinished(connection, [holder]):
                return True
            key = (await data_keys.find(connection, self._cipher, [entry.user_id])).get(entry.user_id)
            return key is not None and await waits.exit_is_due(connection, key, holder, entry.user_id)

    async def _execute(self, entry: OutboxEntry) -> None:
        """Start an instance of a bulk at its turn. One that may not start any more ends as cancelled.

        The workflow may have left the catalogue. Then the reconciler ends the instance, as it has no run.
        """
        async with self._database.transaction() as connection:
            begun = await attempts.begin_start(connection, entry.instance_id)
        workflow = self._startables.get(entry.workflow_id)
        if begun is None or workflow is None:
            return
        of_user = (entry.user_id, entry.instance_id)
        try:
            async with self._database.transaction() as connection:
                request = await bulks.request_of(connection, self._cipher, workflow, *of_user, begun)
                stored = await starting.start(connection, self._cipher, workflow, request)
        except starting.INELIGIBLE as error:
            async with self._database.transaction() as connection:
                await bulks.refuse(connection, self._cipher, entry.workflow_id, *of_user, error)
            return
        if not stored.begun:
            await start_instance(self._client, self._task_queue, stored.new, workflow.description)

    async def _cancel(self, entry: OutboxEntry) -> None:
        """Cancel an instance.

        If its start or replay hasn't reached Temporal, the instance ends in Postgres. Retries then look for a late
        run, for :data:`START_WITHIN`.
        """
        known = True
        try:
            # Temporal accepts the cancellation of a closed run without an error, so the status comes first.
            described = await describe(self._client, entry.workflow_id, entry.instance_id)
            if described.status is WorkflowExecutionStatus.RUNNING:
                await handle_of(self._client, entry.workflow_id, entry.instance_id).cancel(rpc_timeout=RPC_TIMEOUT)
                return
        except RunUnknownError:
            known = False
        async with self._database.transaction() as connection:
            may_start = await terminal.end_unstarted(connection, entry.instance_id, START_WITHIN)
        if may_start:
            raise _StillStartingError
        if not known:
            await self._check_known(entry)

    async def _start_callback(self, entry: OutboxEntry) -> None:
        due = CallbackDue(instance_id=entry.instance_id, ending=int(entry.event_id))
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await self._system.start_workflow(
                CALLBACK,
                due,
                id=callback_id(due),
                task_queue=system_task_queue(self._task_queue, Queue.DELIVERY),
                # Also after the workflow has closed: a repeated delivery must not send the callback again.
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=PublicText(f"Callback of {entry.workflow_id}"),
                rpc_timeout=RPC_TIMEOUT,
            )


async def _record(connection: Connection, stored: StoredOutboxEntry, outcome: EntryOutcome) -> None:
    match outcome:
        case EntryOutcome.DELIVERED:
            await outbox.remove(connection, stored.outbox_id)
        case EntryOutcome.UNAVAILABLE:
            await outbox.retry_soon(connection, stored.outbox_id, UNAVAILABLE_PAUSE)
        case EntryOutcome.STARTING:
            await outbox.retry_soon(connection, stored.outbox_id, STARTING_PAUSE)
        case EntryOutcome.ENDING:
            await outbox.retry_soon(connection, stored.outbox_id, ENDING_PAUSE)
        case EntryOutcome.UNKNOWN:
            await outbox.retry_unknown(connection, stored.outbox_id)
        case EntryOutcome.FAILED:
            attempts = await outbox.retry_later(connection, stored.outbox_id)
            if attempts is not None:
                entry = stored.entry
                logger.error(
                    "an outbox entry is dead",
                    extra={"kind": entry.kind, "workflow_id": entry.workflow_id, "attempts": attempts},
                )
