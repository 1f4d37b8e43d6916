"""Replaying dead letters: the instance is running again from this transaction on, and Temporal is told of it
through the outbox.

The failed run is fenced off here: whatever a straggler of it still writes is dropped. Attempts are granted anew.
Locks are taken in the order of :mod:`store.consents.consents.locks`, but for the instances' rows, which come after the
buckets: nobody who holds one of those waits for a bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from asyncpg import Record

from models.errors import ConsentRequiredError, PerennialError, UserErasedError
from models.vocabulary import DeadLetterStatus
from privacy.encryption import Cipher
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.instances import callbacks, dead_letters, waits
from store.instances.dead_letters import StoredDeadLetter
from store.users import data_keys


@dataclass(frozen=True)
class Requested:
    """What became of a request to replay some letters."""

    accepted: list[StoredDeadLetter]
    refused: list[tuple[StoredDeadLetter, PerennialError]]


async def request(connection: Connection, cipher: Cipher, dead_letter_id: str) -> StoredDeadLetter:
    """Let one dead letter be replayed. Raises what stands in the way: it isn't there, isn't open, the person has
    been erased, or has withdrawn the consent that the instance rests on."""
    letter = await dead_letters.find(connection, cipher, dead_letter_id)
    requested = await request_all(connection, [letter], pause=timedelta())
    for _, reason in requested.refused:
        raise reason
    return await dead_letters.find(connection, cipher, dead_letter_id)


async def request_all(
    connection: Connection, letters: Sequence[StoredDeadLetter], *, pause: timedelta
) -> Requested:
    """Let dead letters be replayed, each some time after the one before; of each either all or nothing."""
    await locks.share(connection, {letter.user_id for letter in letters})
    standing = await _standing(connection, letters)
    accepted, refused = [], []
    for letter in letters:
        reason = standing[letter.dead_letter_id]
        if reason is None:
            accepted.append(letter)
        else:
            refused.append((letter, reason))
    if accepted:
        await _reopen(connection, accepted)
        await outbox.write_replays(connection, accepted, pause)
    return Requested(accepted, refused)


async def _standing(
    connection: Connection, letters: Sequence[StoredDeadLetter]
) -> dict[str, PerennialError | None]:
    """What stands in the way of each letter now, its instance locked; None where nothing does."""
    rows = await connection.fetch(
        """
        SELECT d.dead_letter_id, d.status, k.wrapped IS NULL AS erased,
               i.purpose IS NULL OR coalesce(c.granted, false) AS may
        FROM dead_letters d JOIN instances i USING (instance_id)
        LEFT JOIN data_keys k ON k.subject = i.user_id
        LEFT JOIN consents c ON c.user_id = i.user_id AND c.purpose = i.purpose
        WHERE d.dead_letter_id = ANY($1::text[])
        ORDER BY i.instance_id FOR UPDATE OF i, d
        """,
        [letter.dead_letter_id for letter in letters],
    )
    return {row["dead_letter_id"]: _reason(row) for row in rows}


def _reason(row: Record) -> PerennialError | None:
    if row["status"] != DeadLetterStatus.OPEN:
        return dead_letters.refusal(DeadLetterStatus(row["status"]))
    if row["erased"]:
        return UserErasedError()
    if not row["may"]:
        return ConsentRequiredError("The person has withdrawn the consent that this instance rests on.")
    return None


async def _reopen(connection: Connection, letters: Sequence[StoredDeadLetter]) -> None:
    """Mark the letters, let their instances run again, and forget a message that was refused for good: it never
    left, and its next intent reads the address anew."""
    ids = [letter.dead_letter_id for letter in letters]
    await connection.execute(
        "UPDATE dead_letters SET status = 'replaying', updated_at = now() WHERE dead_letter_id = ANY($1::text[])",
        ids,
    )
    await connection.execute(
        """
        UPDATE instances i
        SET status = 'running', end_time = NULL, error = NULL, reason = NULL, replayed_at = now(),
            replaced_runs = i.replaced_runs || d.run_id
        FROM dead_letters d WHERE d.dead_letter_id = ANY($1::text[]) AND i.instance_id = d.instance_id
        """,
        ids,
    )
    await connection.execute(
        """DELETE FROM messages m USING dead_letters d
            WHERE d.dead_letter_id = ANY($1::text[]) AND m.instance_id = d.instance_id AND m.step = d.failed_step
              AND m.status = 'refused'""",
        ids,
    )


async def give_back(connection: Connection, cipher: Cipher, letter: StoredDeadLetter) -> None:
    """Undo a request that Temporal can't carry out: the instance has failed as it had, the letter is open.

    It is an end of its own, and told as one: the first end's callback may have been passed over meanwhile. The
    instance's row is locked first, as everywhere.
    """
    await connection.execute("SELECT FROM instances WHERE instance_id = $1 FOR NO KEY UPDATE", letter.instance_id)
    undone = await connection.fetchval(
        """UPDATE dead_letters SET status = 'open', updated_at = now()
            WHERE dead_letter_id = $1 AND status = 'replaying' AND run_id = $2 RETURNING true""",
        letter.dead_letter_id,
        letter.run_id,
    )
    key = (await data_keys.find(connection, cipher, [letter.user_id])).get(letter.user_id)
    if undone and key is not None:
        await connection.execute(
            """UPDATE instances SET status = 'failed', end_time = now(), error = $2
                WHERE instance_id = $1 AND end_time IS NULL""",
            letter.instance_id,
            key.encrypt_json("instances.error", letter.error),
        )
        await callbacks.due(connection, letter.instance_id)


async def under_way(connection: Connection, cipher: Cipher, dead_letter_id: str) -> StoredDeadLetter | None:
    """The letter while its replay is still to be carried out."""
    letter = await dead_letters.find(connection, cipher, dead_letter_id)
    return letter if letter.status is DeadLetterStatus.REPLAYING else None


async def tell_missed_events(connection: Connection, cipher: Cipher, letter: StoredDeadLetter) -> None:
    """Tell a replayed instance again of the events that its registered waits count: what came after its failure
    found nobody. The workflow knows an event that it has been told of before."""
    key = await data_keys.require(connection, cipher, letter.user_id)
    registered = await waits.of_instance(connection, key, letter.instance_id)
    asked = {waiting.step: waiting.request for waiting in registered}
    events = await waits.already_recorded(connection, key, letter.instance_id, letter.user_id, asked)
    for waiting in registered:
        missed = [event for event in events if event.step == waiting.step]
        await outbox.write_signals(connection, waiting, letter.user_id, missed)
