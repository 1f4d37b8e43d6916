"""What Temporal is to be told: written in the transaction that it follows from (the projector's with its cursor, a
withdrawal's, a replay's), delivered by the outbox's own activity."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from models.rules.folding import FoldedEvent, UnfoldableError
from models.rules.triggers import WorkflowTrigger, properties_match, type_matches
from models.temporal.execution import RecordedEvent
from privacy.encryption import DataKey, DecryptionError
from store.connection import Connection
from store.instances import triggers as windows
from store.instances import waits
from store.instances.dead_letters import StoredDeadLetter
from store.instances.waits import Waiting

_TRIGGERED = uuid.UUID("c1b6a6de-3f0e-4a0b-9b4c-3c1d3f6f1a52")
_COLUMNS = "kind, workflow_id, instance_id, step, user_id, event_id, event_type, event_timestamp"
_LATER = "least(interval '1 second' * power(2, least(attempts, 10)), interval '10 minutes')"
_LONGEST_AFTER = 10
"""After how many tries the pauses grow no more."""
GIVE_UP_AFTER = 50
REPLAY = "dead_letter.replay"
CANCEL = "instance.cancel"

LetterKind = Literal["signal", "start", "replay", "cancel", "callback"]


@dataclass(frozen=True)
class OutboxEntry:
    """One thing that Temporal is to be told: an event for a waiting instance, a start, and so on."""

    kind: LetterKind
    workflow_id: str
    instance_id: str
    step: str | None
    """The wait that the event is for, or the step to carry on from."""
    user_id: str
    event_id: str
    """Of what brought it about: an event, the dead letter that is replayed, the instance that is cancelled."""
    event_type: str
    event_timestamp: datetime


@dataclass(frozen=True)
class StoredOutboxEntry:
    """A letter in the outbox."""

    outbox_id: int
    attempts: int
    letter: OutboxEntry


def triggered_instance_id(workflow_id: str, event_id: str) -> str:
    """The id of the instance that an event starts: an event starts a workflow once, however often it is told."""
    return uuid.uuid5(_TRIGGERED, f"{workflow_id}/{event_id}").hex


async def enqueue(
    connection: Connection,
    events: Sequence[FoldedEvent],
    triggers: Sequence[WorkflowTrigger],
    keys: Mapping[str, DataKey],
) -> int:
    """Write the letters that a batch of events gives; says how many. Old data gives none.

    ``keys`` has the data key of each event's person, which opens what waits ask for.
    """
    fresh = [event for event in events if not event.historical]
    starts = [letter for event in fresh for letter in _starts(event, triggers)]
    letters = await _admissible(connection, starts, triggers)
    if fresh:
        letters.extend(await _signals(connection, fresh, keys))
    await _write(connection, letters)
    return len(letters)


def _starts(event: FoldedEvent, triggers: Sequence[WorkflowTrigger]) -> list[OutboxEntry]:
    age = datetime.now(UTC) - event.timestamp
    return [
        _letter("start", each.workflow_id, triggered_instance_id(each.workflow_id, event.event_id), None, event)
        for each in triggers
        if type_matches(each.trigger.event_type, event.event_type)
        and age <= each.trigger.max_age
        and _has(event, each.trigger.where)
    ]


async def _admissible(
    connection: Connection, letters: Sequence[OutboxEntry], triggers: Sequence[WorkflowTrigger]
) -> list[OutboxEntry]:
    """The starts that no open window will refuse: who does something often costs no letter each time."""
    once_per = {each.workflow_id: each.once_per for each in triggers if each.once_per is not None}
    taken = await windows.taken(connection, {(each.workflow_id, each.user_id) for each in letters}, once_per)
    return [each for each in letters if (each.workflow_id, each.user_id) not in taken]


def _has(event: FoldedEvent, where: Mapping[str, Any]) -> bool:
    """Whether an event has the properties asked for; its body is opened only if any are. One that doesn't open
    (its person has been erased) has none."""
    if not where:
        return True
    try:
        return properties_match(where, event.properties)
    except (DecryptionError, UnfoldableError):
        return False


async def _signals(
    connection: Connection, events: Sequence[FoldedEvent], keys: Mapping[str, DataKey]
) -> list[OutboxEntry]:
    waiting = await waits.of_users(connection, {event.user_id: keys[event.user_id] for event in events})
    return [
        _letter("signal", wait.workflow_id, wait.instance_id, wait.step, event)
        for event in events
        for wait in waiting.get(event.user_id, ())
        if wait.counts(event.event_id, event.event_type, event.timestamp, event.received_at)
        and _has(event, wait.request.where)
    ]


def _letter(
    kind: LetterKind, workflow_id: str, instance_id: str, step: str | None, event: FoldedEvent
) -> OutboxEntry:
    return OutboxEntry(
        kind, workflow_id, instance_id, step, event.user_id, event.event_id, event.event_type, event.timestamp
    )


async def _write(connection: Connection, letters: Sequence[OutboxEntry]) -> None:
    if letters:
        await connection.execute(
            f"""INSERT INTO temporal_outbox ({_COLUMNS})
                SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                                     $7::text[], $8::timestamptz[])""",
            *map(list, zip(*(vars(letter).values() for letter in letters), strict=True)),
        )


async def write_signals(
    connection: Connection, waiting: Waiting, user_id: str, events: Sequence[RecordedEvent]
) -> None:
    """Write letters that tell a waiting instance of events."""
    place = (waiting.workflow_id, waiting.instance_id, waiting.step, user_id)
    await _write(
        connection,
        [OutboxEntry("signal", *place, each.event_id, each.event_type, each.timestamp) for each in events],
    )


async def write_replays(connection: Connection, letters: Sequence[StoredDeadLetter], pause: timedelta) -> None:
    """Write a letter for each replay, due one after the other."""
    await connection.execute(
        f"""INSERT INTO temporal_outbox ({_COLUMNS}, due_at)
            SELECT 'replay', d.workflow_id, d.instance_id, d.failed_step, d.user_id, d.dead_letter_id, $2, now(),
                   now() + $3::interval * (place - 1)
            FROM unnest($1::text[]) WITH ORDINALITY AS given (dead_letter_id, place)
            JOIN dead_letters d USING (dead_letter_id)""",
        [letter.dead_letter_id for letter in letters],
        REPLAY,
        pause,
    )


async def write_cancel(connection: Connection, workflow_id: str, instance_id: str, user_id: str) -> None:
    """Write a letter that cancels an instance whose start or replay is on the way, whichever comes first."""
    await _write(
        connection,
        [OutboxEntry("cancel", workflow_id, instance_id, None, user_id, instance_id, CANCEL, datetime.now(UTC))],
    )


async def due(connection: Connection, limit: int, without: Collection[int]) -> list[StoredOutboxEntry]:
    """The next letters to deliver, oldest first, except for some that are under way."""
    rows = await connection.fetch(
        f"""SELECT outbox_id, attempts, {_COLUMNS} FROM temporal_outbox
            WHERE due_at <= now() AND NOT dead AND outbox_id <> ALL($2::bigint[])
            ORDER BY due_at, outbox_id LIMIT $1""",
        limit,
        list(without),
    )
    return [
        StoredOutboxEntry(row["outbox_id"], row["attempts"], OutboxEntry(**dict(list(row.items())[2:])))
        for row in rows
    ]


async def delivered(connection: Connection, outbox_ids: Collection[int]) -> None:
    """Drop letters that have been delivered, or that nobody can take any more."""
    await connection.execute("DELETE FROM temporal_outbox WHERE outbox_id = ANY($1::bigint[])", list(outbox_ids))


async def hold(connection: Connection, outbox_id: int, pause: timedelta) -> None:
    """Try a letter again soon: Temporal is away, which is no fault of the letter's and counts for nothing."""
    await connection.execute(
        "UPDATE temporal_outbox SET due_at = now() + $2::interval WHERE outbox_id = $1", outbox_id, pause
    )


async def defer(connection: Connection, outbox_id: int) -> None:
    """Try a letter again later, for as long as it takes: this Temporal doesn't know what it should. The pauses are
    those of a refused letter, for a cancellation a minute at most; no try brings it nearer to being left dead."""
    await connection.execute(
        f"""
        UPDATE temporal_outbox
        SET attempts = greatest(attempts, least(attempts + 1, $2)),
            due_at = now() + CASE kind WHEN 'cancel' THEN least({_LATER}, interval '1 minute') ELSE {_LATER} END
        WHERE outbox_id = $1
        """,
        outbox_id,
        _LONGEST_AFTER,
    )


async def postpone(connection: Connection, outbox_id: int) -> int | None:
    """Try a letter again later: after 1 s, doubling up to 10 minutes; after very many tries leave it dead, but for
    a cancellation, which somebody relies on. Says after how many tries it is dead; None: it isn't."""
    attempts: int | None = await connection.fetchval(
        f"""
        UPDATE temporal_outbox
        SET attempts = attempts + 1, dead = attempts + 1 >= $2 AND kind <> 'cancel', due_at = now() + {_LATER}
        WHERE outbox_id = $1 RETURNING CASE WHEN dead THEN attempts END
        """,
        outbox_id,
        GIVE_UP_AFTER,
    )
    return attempts
