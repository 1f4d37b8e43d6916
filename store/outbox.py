"""The Temporal outbox: calls to Temporal that follow from a transaction in Postgres.

The same transaction writes the entry: that of the projector, a withdrawal, a replay, or an instance's end.
:mod:`activities.outbox` delivers it afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Interval,
    all_,
    and_,
    bindparam,
    case,
    column,
    delete,
    func,
    text,
    update,
)
from sqlalchemy import insert as insert_into
from sqlmodel import col

from models.rules.folding import LogEvent, UnfoldableError
from models.rules.triggers import FOREVER, Waiting, WorkflowTrigger, properties_match, type_matches
from models.tables.projections import TemporalOutbox
from models.temporal.execution import RecordedEvent
from models.temporal.starting import is_exit
from models.vocabulary import NotStarted
from privacy.encryption import DataKey, DecryptionError
from store.connection import Connection
from store.instances import decisions, eligibility, waits
from store.instances import triggers as windows
from store.instances.dead_letters import StoredDeadLetter
from store.instances.decisions import RefusedTrigger
from store.statements import select, statement, unnested

_TRIGGERED = uuid.UUID("c1b6a6de-3f0e-4a0b-9b4c-3c1d3f6f1a52")
_LONGEST_BACKOFF_AFTER = 10
"""The back-off stops growing after this many attempts."""
GIVE_UP_AFTER = 50
"""An entry is dead after this many attempts."""
CANCEL_REQUESTED = "instance.cancel"
_REPLAY = "dead_letter.replay"

EntryKind = Literal["signal", "start", "execute", "replay", "cancel", "callback"]


@dataclass(frozen=True)
class OutboxEntry:
    """One call to Temporal."""

    kind: EntryKind
    workflow_id: str
    instance_id: str
    step: str | None
    """The wait that the event ends, or the step to replay from."""
    user_id: str
    event_id: str
    """The cause: an event, a dead letter to replay, an instance to cancel, a bulk, or the number of an end."""
    event_type: str
    event_timestamp: datetime


@dataclass(frozen=True)
class StoredOutboxEntry:
    outbox_id: int
    attempts: int
    entry: OutboxEntry


def triggered_instance_id(workflow_id: str, event_id: str) -> str:
    """A hash of workflow and event, so that repeated deliveries of an event start the workflow once."""
    return uuid.uuid5(_TRIGGERED, f"{workflow_id}/{event_id}").hex


async def enqueue(
    connection: Connection,
    events: Sequence[LogEvent],
    triggers: Sequence[WorkflowTrigger],
    keys: Mapping[str, DataKey],
) -> int:
    """Write the starts and signals that events cause; returns their number. Historical events cause none.

    Events that were stored without consent start and reach service workflows alone.

    ``keys`` has the data key of each event's user, which decrypts the filters of waits.
    """
    fresh = [event for event in events if not event.historical]
    matching = _starts(fresh, triggers)
    signals = await _signals(connection, fresh, keys) if fresh else []
    entries = [*await _followed(connection, matching, signals, triggers), *signals]
    await write(connection, entries)
    return len(entries)


def _starts(
    events: Sequence[LogEvent], triggers: Sequence[WorkflowTrigger]
) -> list[tuple[OutboxEntry, NotStarted | None]]:
    """The starts whose triggers match events, each with the reason for which the event can't start it."""
    of_type = {
        event_type: [each for each in triggers if type_matches(each.trigger.event_type, event_type)]
        for event_type in {event.event_type for event in events}
    }
    now = datetime.now(UTC)
    return [
        (_start(each.workflow_id, event), _reason_against(each, event, now))
        for event in events
        for each in of_type[event.event_type]
        if _matches(event, each.trigger.where)
    ]


def _start(workflow_id: str, event: LogEvent) -> OutboxEntry:
    return _entry("start", workflow_id, triggered_instance_id(workflow_id, event.event_id), None, event)


def _reason_against(followed: WorkflowTrigger, event: LogEvent, now: datetime) -> NotStarted | None:
    if not event.consented and followed.purpose is not None:
        return NotStarted.CONSENT_REQUIRED
    return NotStarted.TOO_OLD if now - event.timestamp > followed.trigger.max_age else None


async def _followed(
    connection: Connection,
    matching: Sequence[tuple[OutboxEntry, NotStarted | None]],
    signals: Sequence[OutboxEntry],
    triggers: Sequence[WorkflowTrigger],
) -> list[OutboxEntry]:
    """The starts that nothing refuses now; records the others as decisions.

    The checks only avoid useless entries, since the start itself decides, and the outbox records its refusals.
    """
    possible = [entry for entry, reason in matching if reason is None]
    refusals = await eligibility.refusals(
        connection,
        {(each.workflow_id, each.user_id) for each in possible},
        {each.workflow_id: each.purpose for each in triggers},
    )
    eligible = [each for each in possible if (each.workflow_id, each.user_id) not in refusals]
    starts = await _outside_windows(connection, eligible, signals, triggers)
    begun = {each.instance_id for each in starts}

    def refusal(entry: OutboxEntry) -> NotStarted:
        return refusals.get((entry.workflow_id, entry.user_id), NotStarted.WINDOW_USED)

    refused = [
        RefusedTrigger(entry.workflow_id, entry.user_id, reason or refusal(entry), entry.event_id)
        for entry, reason in matching
        if entry.instance_id not in begun
    ]
    await decisions.record(connection, refused)
    return starts


async def _outside_windows(
    connection: Connection,
    starts: Sequence[OutboxEntry],
    signals: Sequence[OutboxEntry],
    triggers: Sequence[WorkflowTrigger],
) -> list[OutboxEntry]:
    """The starts that no open window rejects, so that frequent events don't fill the outbox.

    An exit among the signals closes the window of an instance without a message. Events after it may start again.
    """
    once_per = {each.workflow_id: each.once_per for each in triggers if each.once_per is not None}
    wanted = {(each.workflow_id, each.user_id) for each in starts}
    rejected = await windows.still_open(connection, wanted, once_per)
    exits = [each for each in signals if is_exit(each.step) and once_per.get(each.workflow_id) != FOREVER]
    closed = await windows.give_back(connection, [(e.workflow_id, e.user_id, e.instance_id) for e in exits])
    again_after: dict[tuple[str, str], datetime] = {}
    for each in exits:
        pair = (each.workflow_id, each.user_id)
        if pair in closed:
            again_after[pair] = max(each.event_timestamp, again_after.get(pair, each.event_timestamp))

    def may_start(entry: OutboxEntry) -> bool:
        pair = (entry.workflow_id, entry.user_id)
        return pair not in rejected or (pair in again_after and entry.event_timestamp > again_after[pair])

    return [each for each in starts if may_start(each)]


def _matches(event: LogEvent, where: Mapping[str, Any]) -> bool:
    """Whether an event has the properties; False if its body can't be decrypted, as after an erasure."""
    if not where:
        return True  # without decrypting the body
    try:
        return properties_match(where, event.properties)
    except (DecryptionError, UnfoldableError):
        return False


async def _signals(
    connection: Connection, events: Sequence[LogEvent], keys: Mapping[str, DataKey]
) -> list[OutboxEntry]:
    waiting = await waits.of_users(connection, {event.user_id: keys[event.user_id] for event in events})
    return [
        _entry("signal", wait.workflow_id, wait.instance_id, wait.step, event)
        for event in events
        for wait in waiting.get(event.user_id, ())
        if wait.counts(event.event_id, event.event_type, event.timestamp, event.received_at)
        and (event.consented or wait.of_service)
        and _matches(event, wait.request.where)
        and await _condition_holds(connection, keys[event.user_id], wait)
    ]


async def _condition_holds(connection: Connection, key: DataKey, wait: Waiting) -> bool:
    try:
        return await waits.condition_holds(connection, key, wait.request.condition)
    except DecryptionError:
        return False


def _entry(kind: EntryKind, workflow_id: str, instance_id: str, step: str | None, event: LogEvent) -> OutboxEntry:
    return OutboxEntry(
        kind, workflow_id, instance_id, step, event.user_id, event.event_id, event.event_type, event.timestamp
    )


_NAMES = [field.name for field in fields(OutboxEntry)]
_COLUMNS = [TemporalOutbox.__table__.c[name] for name in _NAMES]  # type: ignore[attr-defined]
_ENTRIES = unnested("entries", *_COLUMNS, column("delay", Interval))
_WRITE = statement(
    insert_into(TemporalOutbox).from_select(
        [*_NAMES, "due_at"], select(*(_ENTRIES.c[name] for name in _NAMES), func.now() + _ENTRIES.c.delay)
    )
)


async def write(
    connection: Connection,
    entries: Sequence[OutboxEntry],
    *,
    pause: timedelta = timedelta(),
    after: timedelta = timedelta(),
) -> None:
    """Write entries, one due every ``pause``; the first is due ``after`` now."""
    if entries:
        columns: dict[str, list[Any]] = {name: [getattr(entry, name) for entry in entries] for name in _NAMES}
        delays = [after + pause * place for place in range(len(entries))]
        await _WRITE.execute(connection, delay=delays, **columns)


async def write_signals(
    connection: Connection, waiting: Waiting, user_id: str, events: Sequence[RecordedEvent]
) -> None:
    """Signal events to an instance that waits for them."""
    wait = (waiting.workflow_id, waiting.instance_id, waiting.step, user_id)
    await write(
        connection,
        [OutboxEntry("signal", *wait, each.event_id, each.event_type, each.timestamp) for each in events],
    )


async def write_cancellations(
    connection: Connection, instances: Collection[tuple[str, str, str]], cause: str
) -> None:
    """Cancel instances, given as (workflow id, instance id, user id), even if a start or replay is pending."""
    now = datetime.now(UTC)
    await write(
        connection,
        [
            OutboxEntry("cancel", workflow_id, instance_id, None, user_id, instance_id, cause, now)
            for workflow_id, instance_id, user_id in instances
        ],
    )


async def write_replays(connection: Connection, letters: Sequence[StoredDeadLetter], pause: timedelta) -> None:
    """Replay dead letters, one every ``pause``."""
    now = datetime.now(UTC)
    entries = [
        OutboxEntry(
            kind="replay",
            workflow_id=letter.workflow_id,
            instance_id=letter.instance_id,
            step=letter.failed_step,
            user_id=letter.user_id,
            event_id=letter.dead_letter_id,
            event_type=_REPLAY,
            event_timestamp=now,
        )
        for letter in letters
    ]
    await write(connection, entries, pause=pause)


_DUE = statement(
    select(col(TemporalOutbox.outbox_id), col(TemporalOutbox.attempts), *_COLUMNS)
    .where(
        col(TemporalOutbox.due_at) <= func.now(),
        ~col(TemporalOutbox.dead),  # the predicate of the index
        col(TemporalOutbox.outbox_id) != all_(bindparam("except_ids", type_=ARRAY(BigInteger()))),
    )
    .order_by(col(TemporalOutbox.due_at), col(TemporalOutbox.outbox_id))
    .limit(bindparam("limit"))
)


async def due(connection: Connection, limit: int, except_ids: Collection[int]) -> list[StoredOutboxEntry]:
    """The next entries to deliver, oldest first, without ``except_ids``, which are being delivered."""
    rows = await _DUE.fetch(connection, limit=limit, except_ids=list(except_ids))
    return [StoredOutboxEntry(row[0], row[1], OutboxEntry(*row[2:])) for row in rows]


_THIS = col(TemporalOutbox.outbox_id) == bindparam("outbox_id")
_DELETE = statement(delete(TemporalOutbox).where(_THIS))


async def remove(connection: Connection, outbox_id: int) -> bool:
    """Remove an entry that was delivered or has lost its recipient; False if it is gone."""
    return bool(await _DELETE.execute(connection, outbox_id=outbox_id))


_RETRY_SOON = statement(
    update(TemporalOutbox).values(due_at=func.now() + bindparam("pause", type_=Interval())).where(_THIS)
)


async def retry_soon(connection: Connection, outbox_id: int, pause: timedelta) -> None:
    """Retry after a pause without counting the attempt: Temporal was unavailable, or a start is under way."""
    await _RETRY_SOON.execute(connection, outbox_id=outbox_id, pause=pause)


_BACKOFF = func.least(
    text("interval '1 second'") * func.power(2, func.least(col(TemporalOutbox.attempts), _LONGEST_BACKOFF_AFTER)),
    text("interval '10 minutes'"),
)
_RETRY_UNKNOWN = statement(
    update(TemporalOutbox)
    .values(
        # Grows only up to the longest back-off, so it never reaches GIVE_UP_AFTER.
        attempts=func.greatest(
            col(TemporalOutbox.attempts), func.least(col(TemporalOutbox.attempts) + 1, _LONGEST_BACKOFF_AFTER)
        ),
        due_at=func.now()
        + case(
            (col(TemporalOutbox.kind) == "cancel", func.least(_BACKOFF, text("interval '1 minute'"))),
            else_=_BACKOFF,
        ),
    )
    .where(_THIS)
)


async def retry_unknown(connection: Connection, outbox_id: int) -> None:
    """Retry without limit, since Temporal doesn't know an instance that it should know.

    The back-off is that of :func:`retry_later`, at most a minute for a cancellation. The entry never becomes dead.
    """
    await _RETRY_UNKNOWN.execute(connection, outbox_id=outbox_id)


# In SET, columns have their old values, so this adds 1 again.
_GIVES_UP = and_(col(TemporalOutbox.attempts) + 1 >= GIVE_UP_AFTER, col(TemporalOutbox.kind) != "cancel")
_RETRY_LATER = statement(
    update(TemporalOutbox)
    .values(attempts=col(TemporalOutbox.attempts) + 1, dead=_GIVES_UP, due_at=func.now() + _BACKOFF)
    .where(_THIS)
    .returning(case((col(TemporalOutbox.dead), col(TemporalOutbox.attempts))))
)


async def retry_later(connection: Connection, outbox_id: int) -> int | None:
    """Retry after 1 s, doubling up to 10 minutes. After :data:`GIVE_UP_AFTER` attempts the entry is dead.

    A cancellation never becomes dead, since a withdrawal depends on it. Returns the attempts of a dead entry, else
    None.
    """
    attempts: int | None = await _RETRY_LATER.fetchval(connection, outbox_id=outbox_id)
    return attempts
