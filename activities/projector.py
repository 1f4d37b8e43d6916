"""The projector: follows a shard of the log and folds its events into profiles, sessions and transactions.

An event counts exactly once. Argument, by the point at which a process, or Postgres, dies; the effects, the
events set aside, the letters to Temporal and the cursor's move are one transaction:

1. after the batch is read: nothing was written; whoever takes the shard over reads the same again.
2. after the cursor is moved, before all effects are written: all of it is rolled back; as 1.
3. after the effects, before the commit: as 2.
4. during the commit, where the answer doesn't come: effects and move are both there or both not.
5. after the commit: the cursor is behind the batch. A commit that the disk hadn't got yet when Postgres
   crashed is forgotten whole, and the events, which the disk had before they were answered, are read again.

The cursor isn't kept in memory: each batch begins with reading where Postgres says that it is.

Two workers that follow one shard for a moment, as after a heartbeat that came late, are harmless: the cursor
moves by compare-and-set before anything else is written, so the second waits for the first and finds it moved.

An event that can't be folded never stops its shard: it is tried a few times, alone, then set aside in the same
way (:mod:`store.events.poison`). So is one that Postgres refuses to store, once a batch of nothing else fails. What would
befall any event, a bug of ours among it, stops the shard, and is tried again until it passes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from temporalio import activity
from temporalio.client import Client

from activities.heartbeats import heartbeats
from activities.system import ensure_running
from models.rules.folding import ACCOUNT_DELETION, FoldedEvent, Projection
from models.rules.triggers import WorkflowTrigger
from models.temporal.projection import ALL_SHARDS, PROJECTOR, ShardOfLog, projector_workflow_id
from privacy.encryption import Cipher, DataKey, DecryptionError, KeyUnwrapError
from runtime.database import UNREACHABLE, Database
from runtime.wake_ups import WakeUp, WakeUps
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.events import log, poison, projection
from store.events.log import BEGINNING, CHANNEL, CursorMovedError, LoggedEvent, Position
from store.events.poison import Refused
from store.users import closures, data_keys

logger = logging.getLogger("perennial.projector")

BATCH = 5000
"""How many events at most go into one transaction. One who is behind takes more at once, and many events of the
same people and sessions cost little more than one."""
YIELD_EVERY = 250
"""After how many events others of this process have their turn: workflow tasks wait on the same loop."""
TRIES = 3
"""How often an event is tried alone before it is set aside."""
TURN_SECONDS = 20 * 60.0
"""How long an activity follows a shard before it lets the workflow continue as new."""
POLL_SECONDS = 0.25
"""How soon it looks by itself, when no notification comes."""
UNSETTLED_SECONDS = 0.01
"""How soon it looks again while rows wait for an open transaction to end."""
GATHER_SECONDS = 0.025
"""How long at least it lets events gather after a batch, so that a steady stream makes fewer batches."""
PACE = 2.0
MOST_GATHERED_SECONDS = 0.25
"""It rests so many times as long as the batch took, within limits: where the machine is full, what waits for an
answer goes first, and larger batches cost less an event."""
AGAIN_SECONDS = 0.5
"""How soon it tries again what wasn't an event's fault."""


class Found(Enum):
    """What a look at the log has found."""

    NOTHING = "nothing"
    UNSETTLED = "unsettled"
    SOME = "some"
    FULL = "full"


class Projector:
    """Follows shards of the log. One for a process: its shards share a listening connection."""

    def __init__(self, database: Database, cipher: Cipher, triggers: Sequence[WorkflowTrigger]) -> None:
        self._database = database
        self._cipher = cipher
        self._triggers = triggers
        self._wake_ups = WakeUps(database, CHANNEL)

    @activity.defn(name="projector.follow")
    async def follow(self, shard: ShardOfLog) -> None:
        """Fold what comes, until the turn is over or the worker stops."""
        follower = Follower(self._database, self._cipher, self._triggers, shard.shard)
        over = asyncio.get_running_loop().time() + TURN_SECONDS
        async with heartbeats(), self._wake_ups.bell() as bell:
            while (began := asyncio.get_running_loop().time()) < over and not activity.is_worker_shutdown():
                found = await follower.step()
                await _rest(bell, found, asyncio.get_running_loop().time() - began)


async def _rest(bell: WakeUp, found: Found | None, taken: float) -> None:
    """Wait as long as what was found, and how long it took, make sense of; None is a failure."""
    if found is Found.NOTHING:
        await bell.wait(POLL_SECONDS)
    elif found is Found.UNSETTLED:
        await asyncio.sleep(UNSETTLED_SECONDS)
    elif found is Found.SOME:
        await asyncio.sleep(min(max(GATHER_SECONDS, taken * PACE), MOST_GATHERED_SECONDS))
    elif found is None:
        await asyncio.sleep(AGAIN_SECONDS)


@dataclass(frozen=True)
class _Batch:
    """Events that were read, folded."""

    before: Position
    to: Position
    events: list[FoldedEvent]
    projection: Projection
    refused: list[Refused]
    keys: Mapping[str, DataKey]


@dataclass(frozen=True)
class _Failure:
    """How often the one event after a position has failed, alone."""

    after: Position
    tries: int
    error: Exception


class Follower:
    """Where one activity stands in one shard."""

    def __init__(
        self, database: Database, cipher: Cipher, triggers: Sequence[WorkflowTrigger], shard: int
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._triggers = triggers
        self._shard = shard
        self._cursor = BEGINNING
        """Where the batch under way begins. Read anew for each: a crash of Postgres may have put it back."""
        self._limit = BATCH
        self._failure: _Failure | None = None
        self._stopped_by: str | None = None
        """What was logged already of why the shard stands still: it is tried twice a second, and told once."""

    async def step(self) -> Found | None:
        """Take the next batch; None where it has to be tried again later."""
        try:
            found = await self._advance()
        except CursorMovedError:
            logger.info("another worker follows this shard too", extra={"shard": self._shard})
        except UNREACHABLE:
            logger.warning("Postgres does not answer", extra={"shard": self._shard})
        except Exception as error:  # noqa: BLE001 - it is logged, and the shard waits
            if poison.is_of_the_event(error):
                self._look_closer(error)
                return Found.FULL
            self._tell_why_it_stops(error)
        else:
            self._stopped_by = None
            return found
        return None

    def _tell_why_it_stops(self, error: Exception) -> None:
        """Log what keeps the shard from going on, unless it is what was logged last."""
        why = f"{type(error).__name__}: {error}"
        if why == self._stopped_by:
            return
        self._stopped_by, place = why, {"shard": self._shard}
        if isinstance(error, KeyUnwrapError):
            logger.error("the shard waits for a key file that opens its data keys: %s", error, extra=place)
        else:
            logger.error("the shard waits, since a batch can't be folded", exc_info=error, extra=place)

    def _look_closer(self, error: Exception) -> None:
        """After a batch that failed for one of its events: smaller ones, until the event stands alone."""
        if self._limit > 1:
            self._limit //= 2
            return
        failed = self._failure.tries if self._failure and self._failure.after == self._cursor else 0
        self._failure = _Failure(self._cursor, failed + 1, error)

    async def _advance(self) -> Found:
        async with self._database.transaction() as connection:
            self._cursor = await log.cursor(connection, PROJECTOR, self._shard)
            logged = await log.read(connection, self._shard, self._cursor, self._limit)
            if not logged:
                waiting = await log.more(connection, self._shard, self._cursor)
                return Found.UNSETTLED if waiting else Found.NOTHING
            await self._take(connection, await self._fold(connection, logged))
        full = len(logged) == self._limit
        self._limit = min(self._limit * 2, BATCH)
        return Found.FULL if full else Found.SOME

    async def _fold(self, connection: Connection, logged: Sequence[LoggedEvent]) -> _Batch:
        """Fold events of people who have a key; whose key is destroyed, or never was, is passed over. Events of
        somebody whose key is damaged are set aside.

        The lock is the one that erasure takes exclusively: who is erased from now on is erased after this
        transaction, with what it has written.
        """
        await closures.hold(connection, {each.user_id for each in logged if each.event_type == ACCOUNT_DELETION})
        users = {each.user_id for each in logged}
        await locks.share(connection, users)
        found = await data_keys.find_each(connection, self._cipher, users)
        keys = {user_id: key for user_id, key in found.items() if isinstance(key, DataKey)}
        batch = _Batch(self._cursor, logged[-1].position, [], Projection(), [], keys)
        for number, each in enumerate(logged, 1):
            if each.user_id in keys:
                self._try(batch, each.opened_with(keys[each.user_id]))
            elif isinstance(damaged := found.get(each.user_id), DecryptionError):
                batch.refused.append(Refused(each.opened_with(None), 1, damaged))
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return batch

    def _try(self, batch: _Batch, event: FoldedEvent) -> None:
        """Fold one event in, or see after some tries that it can't be."""
        failed = self._failure
        if failed is not None and failed.after == batch.before and failed.tries >= TRIES:
            batch.refused.append(Refused(event, failed.tries, failed.error))
            return
        for tries in range(1, TRIES + 1):
            try:
                batch.projection.add(event)
            except Exception as error:  # noqa: BLE001 - whatever an event raises is its own fault
                if tries == TRIES:
                    batch.refused.append(Refused(event, tries, error))
            else:
                batch.events.append(event)
                return

    async def _take(self, connection: Connection, batch: _Batch) -> None:
        await log.move(connection, PROJECTOR, self._shard, batch.before, batch.to)
        await projection.write(connection, batch.projection, batch.keys)
        await outbox.enqueue(connection, batch.events, self._triggers, batch.keys)
        await poison.set_aside(connection, PROJECTOR, batch.refused)
        for each in batch.refused:
            logger.error(
                "an event was set aside",
                extra={"event_id": each.event.event_id, "error_type": type(each.error).__name__},
            )


async def start_projectors(client: Client, task_queue: str) -> None:
    """Make sure that each shard has its workflow on this task queue."""
    for shard in ALL_SHARDS:
        await ensure_running(
            client,
            task_queue,
            PROJECTOR,
            workflow_id=projector_workflow_id(shard.shard),
            summary=f"Folds shard {shard.shard} of the event log into profiles",
            args=[shard],
        )
