"""The projector: follows a shard of the log and projects its events into profiles, sessions and transactions.

Each event counts exactly once. One transaction writes the effects, the events set aside, the outbox entries for
Temporal and the cursor. If the worker or Postgres dies:

1. after the batch is read: nothing was written; the next worker on the shard reads the same events.
2. after the cursor is moved, before all effects are written: Postgres rolls back; as 1.
3. after the effects, before the commit: as 2.
4. during the commit, without an answer: effects and move are both committed, or neither.
5. after the commit: the cursor is past the batch. If Postgres crashes before the commit is on disk, it loses
   effects and move together. The events are on disk, since ingest waits for that, and are read again.

Visits are the one effect that depends on stored rows (:mod:`store.events.visits`). They are read after the move,
in the same transaction: a batch that is projected again reads them again, without the effects that were rolled
back.

The worker doesn't keep the cursor in memory: each batch begins by reading it from Postgres.

Two workers may briefly follow one shard, for instance after a late heartbeat. The cursor moves first, by
compare-and-set. So the second worker waits for the first, and finds the cursor moved.

An event that can't be projected never stops its shard. The worker tries it a few times, alone, and then sets it
aside (:mod:`store.events.poison`), also if Postgres rejects its data. An error that no event causes stops the
shard: the worker retries until it succeeds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from temporalio import activity

from activities.loops import run_loop
from models.rules.folding import ACCOUNT_DELETION, LogEvent, Projection
from models.rules.profile_changes import PROFILE_UPDATE
from models.rules.rollups import counted
from models.rules.series import DIMENSION_VALUES, SeriesCache
from models.rules.stages import DEFAULT_PERIODS, Periods
from models.rules.triggers import WorkflowTrigger
from models.temporal.system import PROJECTOR, ShardOfLog
from privacy.encryption import Cipher, DataKey, DecryptionError, KeyUnwrapError
from runtime.database import UNREACHABLE, Database
from runtime.wake_ups import WakeUps
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.events import log, poison, projection
from store.events.log import BEGINNING, CHANNEL, CursorMovedError, LoggedEvent, Position
from store.events.poison import UnusableEvent
from store.rollups import deltas, series
from store.users import changes, data_keys, people, stages, users
from store.users.users import LockedUsers

logger = logging.getLogger("perennial.projector")

BATCH = 5000
"""The most events in one transaction. Events of the same users and sessions share most of their cost."""
YIELD_EVERY = 250
"""The events after which the loop yields: workflow tasks wait on the same event loop."""
TRIES = 3
"""The attempts at an event, alone, before it is set aside."""
POLL_SECONDS = 0.25
"""The pause after an empty read, unless a notification comes."""
UNSETTLED_SECONDS = 0.01
"""The pause while rows wait for an open transaction to end."""
GATHER_SECONDS = 0.025
"""The shortest pause after a batch, so that a steady stream makes fewer batches."""
REST_FACTOR = 1.0
MOST_GATHERED_SECONDS = 0.1
"""The pause is ``REST_FACTOR`` times the batch's duration, up to this. It gives requests priority on a busy
machine, and larger batches cost less per event."""
AGAIN_SECONDS = 0.5
"""The pause after an error that no event has caused."""


class Found(Enum):
    NOTHING = "nothing"
    UNSETTLED = "unsettled"
    SOME = "some"
    FULL = "full"


class Projector:
    """Follows shards of the log; one for each process, whose shards share a listening connection."""

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        triggers: Sequence[WorkflowTrigger],
        periods: Periods = DEFAULT_PERIODS,
        dimension_values: int = DIMENSION_VALUES,
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._triggers = triggers
        self._periods = periods
        self._series = SeriesCache(dimension_values)
        self._wake_ups = WakeUps(database, CHANNEL)

    @activity.defn(name="projector.follow")
    async def follow(self, shard: ShardOfLog) -> None:
        """Project the events of a shard for a turn."""
        follower = Follower(self._database, self._cipher, self._triggers, shard.shard, self._periods, self._series)
        clock = asyncio.get_running_loop().time
        async with self._wake_ups.subscribe() as wake_up:

            async def step() -> float:
                began = clock()
                found = await follower.step()
                if found is Found.NOTHING:
                    await wake_up.wait(POLL_SECONDS)
                    return 0
                return _pause(found, clock() - began)

            await run_loop(step)


def _pause(found: Found | None, taken: float) -> float:
    """Seconds until the next batch, after one that took ``taken`` seconds; None is a failed one."""
    if found is None:
        return AGAIN_SECONDS
    if found is Found.UNSETTLED:
        return UNSETTLED_SECONDS
    if found is Found.SOME:
        return min(max(GATHER_SECONDS, taken * REST_FACTOR), MOST_GATHERED_SECONDS)
    return 0


@dataclass(frozen=True)
class _Batch:
    """A batch that was read and projected."""

    before: Position
    to: Position
    events: list[LogEvent]
    projection: Projection
    unusable: list[UnusableEvent]
    keys: Mapping[str, DataKey]
    persons: Mapping[str, int]
    """The numbers that stand for the users in rollups."""
    moving: set[str]
    """The users whose lifecycle stage the batch may move; their rows are locked."""
    profiles: LockedUsers
    """Of the users with events that change profiles."""


@dataclass(frozen=True)
class _Failure:
    """The failed attempts at the event that follows a position."""

    after: Position
    tries: int
    error: Exception


class Follower:
    """The state of one activity in one shard."""

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        triggers: Sequence[WorkflowTrigger],
        shard: int,
        periods: Periods = DEFAULT_PERIODS,
        known: SeriesCache | None = None,
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._triggers = triggers
        self._shard = shard
        self._periods = periods
        self._series = known or SeriesCache(DIMENSION_VALUES)
        # Read again for each batch: a crash of Postgres may have put the cursor back.
        self._cursor = BEGINNING
        self._limit = BATCH
        self._failure: _Failure | None = None
        self._logged_error: str | None = None

    async def step(self) -> Found | None:
        """Project the next batch; None if it must be retried later."""
        try:
            found = await self._advance()
        except CursorMovedError:
            logger.info("another worker follows this shard too", extra={"shard": self._shard})
        except UNREACHABLE:
            logger.warning("Postgres does not answer", extra={"shard": self._shard})
        except Exception as error:  # noqa: BLE001 - it is logged, and the shard waits
            if poison.is_of_the_event(error):
                self._isolate_event(error)
                return Found.FULL
            self._log_once(error)
        else:
            self._logged_error = None
            return found
        return None

    def _log_once(self, error: Exception) -> None:
        """Log an error that stops the shard, unless it was logged last: the batch is tried twice a second."""
        text = f"{type(error).__name__}: {error}"
        if text == self._logged_error:
            return
        self._logged_error, shard = text, {"shard": self._shard}
        if isinstance(error, KeyUnwrapError):
            logger.error("the shard waits for a key file that opens its data keys: %s", error, extra=shard)
        else:
            logger.error("the shard waits, since a batch can't be projected", exc_info=error, extra=shard)

    def _isolate_event(self, error: Exception) -> None:
        """Halve the batches after one failed for the data of an event, until the event is alone in its batch."""
        if self._limit > 1:
            self._limit //= 2
            return
        failed = self._failure.tries if self._failure and self._failure.after == self._cursor else 0
        self._failure = _Failure(self._cursor, failed + 1, error)

    async def _advance(self) -> Found:
        async with self._database.transaction() as connection:
            await deltas.share(connection, self._shard)
            self._cursor = await log.cursor(connection, PROJECTOR, self._shard)
            logged = await log.read(connection, self._shard, self._cursor, self._limit)
            if not logged:
                waiting = await log.more(connection, self._shard, self._cursor)
                return Found.UNSETTLED if waiting else Found.NOTHING
            await self._write(connection, await self._project(connection, logged))
        full = len(logged) == self._limit
        # Undo the halving of :meth:`_isolate_event`, batch by batch.
        self._limit = min(self._limit * 2, BATCH)
        return Found.FULL if full else Found.SOME

    async def _project(self, connection: Connection, logged: Sequence[LoggedEvent]) -> _Batch:
        """Project the events of users who have a data key; events of erased users are skipped.

        Events of a user whose key is damaged are set aside, and changes of a profile that is.
        """
        closing = {each.user_id for each in logged if each.event_type == ACCOUNT_DELETION}
        updates = [each for each in logged if each.event_type == PROFILE_UPDATE]
        updated = {each.user_id for each in updates}
        user_ids = {each.user_id for each in logged}
        known = await people.of_batch(connection, user_ids)
        moving = stages.may_move(known, logged, datetime.now(UTC), self._periods)
        # Rows before consent buckets: the opposite order could deadlock with a withdrawal.
        await users.lock_rows(connection, closing | moving | updated)
        if updates:
            closing |= await changes.restricting(connection, self._cipher, updates)
        # An erasure takes the same locks exclusively: it waits for this transaction, and erases its effects too.
        # A closing takes them exclusively itself: no message leaves, and nothing starts, after its commit.
        await locks.share_and_exclude(connection, user_ids, closing)
        found = await data_keys.find_each(connection, self._cipher, user_ids)
        keys = {user_id: key for user_id, key in found.items() if isinstance(key, DataKey)}
        profiles = await users.lock(connection, self._cipher, updated) if updated else changes.NOBODY
        persons = {user_id: each.person for user_id, each in known.items()}
        batch = _Batch(self._cursor, logged[-1].position, [], Projection(), [], keys, persons, moving, profiles)
        for number, each in enumerate(logged, 1):
            damaged: object = found.get(each.user_id)
            if profiles.unreadable and each.event_type == PROFILE_UPDATE:
                damaged = profiles.unreadable.get(each.user_id, damaged)
            if isinstance(damaged, DecryptionError):
                batch.unusable.append(UnusableEvent(each.decrypted_with(None), 1, damaged))
            elif each.user_id in keys:
                self._add(batch, each.decrypted_with(keys[each.user_id]))
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return batch

    def _add(self, batch: _Batch, event: LogEvent) -> None:
        """Add one event to the projection, or to the unusable ones after :data:`TRIES` attempts."""
        failed = self._failure
        if failed is not None and failed.after == batch.before and failed.tries >= TRIES:
            batch.unusable.append(UnusableEvent(event, failed.tries, failed.error))
            return
        for tries in range(1, TRIES + 1):
            try:
                batch.projection.add(event)
            except Exception as error:  # noqa: BLE001 - any error of the pure code comes from the event
                if tries == TRIES:
                    batch.unusable.append(UnusableEvent(event, tries, error))
            else:
                batch.events.append(event)
                return

    async def _write(self, connection: Connection, batch: _Batch) -> None:
        entries = counted(batch.events, batch.projection)
        known = await series.resolve(self._series, self._database.transaction, {each.key for each in entries})
        # Before the effects: a second worker on the shard waits here, and then finds the cursor moved.
        await log.move(connection, PROJECTOR, self._shard, batch.before, batch.to)
        if batch.projection.changes:
            await changes.apply(connection, self._cipher, batch.profiles, batch.projection.changes)
        sessions = await projection.write(connection, batch.projection, batch.keys, self._periods)
        now = datetime.now(UTC)
        await stages.move_by_activity(connection, self._cipher, batch.moving, batch.events, now, self._periods)
        if entries:
            received_at = min(each.received_at for each in batch.events)
            await deltas.write(connection, self._shard, entries, known, batch.persons, received_at, sessions)
        await outbox.enqueue(connection, batch.events, self._triggers, batch.keys)
        await poison.set_aside(connection, PROJECTOR, batch.unusable)
        for each in batch.unusable:
            logger.error(
                "an event was set aside",
                extra={"event_id": each.event.event_id, "error_type": type(each.error).__name__},
            )
