"""Telling Temporal what has been put into the outbox: events for waits, starts by trigger, replays.

Each letter may be delivered more than once, and has its effect once: an event's id deduplicates in the workflow,
the instance id of a trigger follows from the event, and a reset is known by the run that it has
made. By the line at which the process dies:

1. before Temporal is told: the letter is still there, and is delivered later.
2. after it, before the letter is dropped: it is delivered again, without an effect.

While Temporal is away letters are tried every two seconds and lose no attempt by it, so that they go out as soon
as it is back, however long it was gone. A letter that Temporal refuses, or that can't be delivered for a reason of
its own, waits longer each time, and holds no other back. So does one for an instance that was seen running and
that Temporal doesn't know, until it does, or until the reconciler ends the instance: a worker that was pointed at
another Temporal by mistake loses nothing, least of all the cancellation that follows a withdrawal.

A start stores its instance first (ADR 0008); what stands in the way of it (no such user, no consent, a workflow
that is switched off, another start within `once_per`) is no failure: the letter is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.loops import turn
from activities.replays import Replays
from models.errors import PerennialError
from models.rules.triggers import Exit
from models.temporal.execution import RecordedEvent
from models.temporal.identity import temporal_workflow_id
from models.temporal.public_text import PublicText
from models.temporal.starting import exit_requests, start_message, start_options
from models.temporal.system import CALLBACK, CallbackDue, Queue, callback_id, system_task_queue
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from runtime.temporal import RPC_TIMEOUT
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.instances import instances, terminal, triggers, waits
from store.instances.instances import NewInstance
from store.outbox import OutboxEntry, StoredOutboxEntry

logger = logging.getLogger("perennial.outbox")

AT_ONCE = 32
"""How many letters are under way at once: enough to keep Temporal busy, too few to drown it."""
IDLE_SECONDS = 0.1
STARTED_BY = "trigger"
AWAY = frozenset({RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.RESOURCE_EXHAUSTED})
"""What an RPC says when Temporal is away or busy, whatever it is asked: the letter waits, and isn't to blame."""
AWAY_PAUSE = timedelta(seconds=2)
START_WITHIN = timedelta(minutes=1)
"""Far longer than whoever has stored an instance takes to tell Temporal of it, or gives up."""


@dataclass(frozen=True)
class Startable:
    """What a trigger needs to know of a workflow."""

    description: str
    purpose: Purpose | None
    max_attempts: int
    parameters: Mapping[str, Any]
    """The defaults, as the definition's parameter model dumps them."""
    once_per: timedelta | None = None
    """Within which time it starts at most once for a user."""
    exits: Sequence[Exit] = ()


class _Fate(Enum):
    """What becomes of a letter."""

    SETTLED = auto()
    """It is dropped: Temporal has been told, or nobody can take it any more."""
    REFUSED = auto()
    """It is tried again, later each time, and not for ever."""
    AWAY = auto()
    """It is tried again soon: Temporal can't be reached."""
    UNKNOWN = auto()
    """It is tried again, later each time, for as long as it takes: this Temporal doesn't know what it should."""


class _StillStartingError(Exception):
    """An instance that is to be cancelled may still be on its way to Temporal."""


class Outbox:
    """Delivers letters until its activity is cancelled."""

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
        self._replays = Replays(database, cipher, client)

    @activity.defn(name="outbox.deliver")
    async def deliver(self) -> None:
        """Deliver due entries for a turn."""
        async with turn() as goes_on:
            await self.carry_on(goes_on)

    async def carry_on(self, go_on: Callable[[], bool]) -> None:
        """The loop of :meth:`deliver`; what is under way when it ends is delivered again by the next."""
        under_way: dict[asyncio.Task[None], int] = {}
        try:
            while go_on():
                letters = await self._due(AT_ONCE - len(under_way), list(under_way.values()))
                for stored in letters:
                    under_way[asyncio.create_task(self._hand_over(stored))] = stored.outbox_id
                if not under_way:
                    await asyncio.sleep(IDLE_SECONDS)
                    continue
                done, _ = await asyncio.wait(under_way, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del under_way[task]
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _due(self, room: int, without: list[int]) -> list[StoredOutboxEntry]:
        if room <= 0:
            return []
        try:
            async with self._database.connection() as connection:
                return await outbox.due(connection, room, without)
        except UNREACHABLE:
            return []

    async def _hand_over(self, stored: StoredOutboxEntry) -> None:
        try:
            fate = await self._tell(stored.letter)
            async with self._database.connection() as connection:
                await _write(connection, stored, fate)
        except UNREACHABLE:
            logger.warning("the outbox waits for Postgres")
            await asyncio.sleep(IDLE_SECONDS)

    async def _tell(self, letter: OutboxEntry) -> _Fate:
        """Tell Temporal of one letter. Raises only where Postgres is away: whatever else goes wrong is the affair
        of this letter, and holds no other back."""
        try:
            await self._carry(letter)
        except RPCError as error:
            logger.warning(
                "Temporal did not take a letter", extra={"kind": letter.kind, "status": error.status.name}
            )
            if error.status is RPCStatusCode.NOT_FOUND:
                return _Fate.UNKNOWN
            return _Fate.AWAY if error.status in AWAY else _Fate.REFUSED
        except _StillStartingError:
            return _Fate.REFUSED
        except UNREACHABLE:
            raise
        except Exception:
            logger.exception("a letter can't be delivered", extra={"kind": letter.kind})
            return _Fate.REFUSED
        return _Fate.SETTLED

    async def _carry(self, letter: OutboxEntry) -> None:
        match letter.kind:
            case "signal":
                await self._signal(letter)
            case "start":
                await self._start(letter)
            case "replay":
                await self._replays.carry_on(letter.event_id)
            case "cancel":
                await self._cancel(letter)
            case "callback":
                await self._call_back(letter)

    async def _signal(self, letter: OutboxEntry) -> None:
        handle = self._client.get_workflow_handle(temporal_workflow_id(letter.workflow_id, letter.instance_id))
        event = RecordedEvent(
            event_id=letter.event_id,
            event_type=letter.event_type,
            timestamp=letter.event_timestamp,
            step=letter.step,
        )
        try:
            await handle.signal("event_recorded", event, rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            if await self._goes_on(letter.instance_id):
                await handle.describe(rpc_timeout=RPC_TIMEOUT)  # it has closed, or isn't known either

    async def _goes_on(self, instance_id: str) -> bool:
        """Whether an instance was seen running and has no end: a Temporal without it isn't the right one, or has
        lost it, and which of the two the reconciler decides (ADR 0029)."""
        async with self._database.connection() as connection:
            return any(each.run_id is not None for each in await terminal.unfinished(connection, [instance_id]))

    async def _cancel(self, letter: OutboxEntry) -> None:
        """Cancel an instance. One whose start or replay hasn't come through is ended here, and looked for a while
        longer."""
        handle = self._client.get_workflow_handle(temporal_workflow_id(letter.workflow_id, letter.instance_id))
        unknown: RPCError | None = None
        try:
            # Asked first, since Temporal takes the cancellation of a closed run without a word.
            if (await handle.describe(rpc_timeout=RPC_TIMEOUT)).status is WorkflowExecutionStatus.RUNNING:
                await handle.cancel(rpc_timeout=RPC_TIMEOUT)
                return
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            unknown = error
        async with self._database.transaction() as connection:
            coming = await instances.end_unstarted(connection, letter.instance_id, START_WITHIN)
            if coming is not None:
                await terminal.close(connection, letter.instance_id)
        if coming:
            raise _StillStartingError
        if unknown is not None and await self._goes_on(letter.instance_id):
            raise unknown

    async def _call_back(self, letter: OutboxEntry) -> None:
        due = CallbackDue(instance_id=letter.instance_id, ending=int(letter.event_id))
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await self._system.start_workflow(
                CALLBACK,
                due,
                id=callback_id(due),
                task_queue=system_task_queue(self._task_queue, Queue.DELIVERY),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=PublicText(f"Callback of {letter.workflow_id}"),
                rpc_timeout=RPC_TIMEOUT,
            )

    async def _start(self, letter: OutboxEntry) -> None:
        startable = self._startables.get(letter.workflow_id)
        new = await self._admit(letter, startable) if startable else None
        if startable is None or new is None:
            return
        message = start_message(new.instance_id, new.user_id, new.max_attempts, new.parameters, startable.exits)
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await self._client.start_workflow(
                new.workflow_id,
                message,
                task_queue=self._task_queue,
                rpc_timeout=RPC_TIMEOUT,
                **start_options(new.workflow_id, message, startable.description),
            )

    async def _admit(self, letter: OutboxEntry, startable: Startable) -> NewInstance | None:
        """Store the instance if it may run."""
        async with self._database.transaction() as connection:
            try:
                if startable.purpose is not None:
                    await locks.share(connection, [letter.user_id])
                admission = await instances.eligibility(
                    connection, self._cipher, letter.workflow_id, letter.user_id, startable.purpose
                )
            except PerennialError:
                return None
            if not admission.enabled or not admission.consented:
                return None
            if startable.once_per is not None and not await triggers.open_window(
                connection, letter.workflow_id, letter.user_id, letter.instance_id, startable.once_per
            ):
                return None
            new = NewInstance(
                instance_id=letter.instance_id,
                workflow_id=letter.workflow_id,
                user_id=letter.user_id,
                max_attempts=admission.max_attempts or startable.max_attempts,
                parameters=dict(startable.parameters),
                started_by=STARTED_BY,
                purpose=startable.purpose,
            )
            await instances.insert(connection, admission.key, new)
            await triggers.remember(connection, new.instance_id, letter.event_id, letter.event_timestamp)
            exits = exit_requests(startable.exits)
            await waits.register_exits(connection, admission.key, new.workflow_id, new.instance_id, exits)
            return new


async def _write(connection: Connection, stored: StoredOutboxEntry, fate: _Fate) -> None:
    match fate:
        case _Fate.SETTLED:
            await outbox.delivered(connection, [stored.outbox_id])
        case _Fate.AWAY:
            await outbox.hold(connection, stored.outbox_id, AWAY_PAUSE)
        case _Fate.UNKNOWN:
            await outbox.defer(connection, stored.outbox_id)
        case _Fate.REFUSED:
            attempts = await outbox.postpone(connection, stored.outbox_id)
            if attempts is not None:
                told = {"kind": stored.letter.kind, "workflow_id": stored.letter.workflow_id, "attempts": attempts}
                logger.error("a letter was left dead", extra=told)
