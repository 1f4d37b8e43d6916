"""Ids of events: taken in the transaction that stores the event, so that each is stored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b

from store.connection import Connection


def fingerprint(user_id: str, event_type: str) -> int:
    """64 bits of what an id stands for; the same id with another fingerprint is a conflict."""
    digest = blake2b(f"{user_id}\x00{event_type}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


async def take(connection: Connection, wanted: Sequence[tuple[str, int, datetime]]) -> set[str]:
    """Take those of some (id, fingerprint, timestamp) whose ids are free, and say which.

    They must come in the order of their ids: whoever else takes one of them is waited for, and nobody in a
    circle. One that is rolled back leaves its id to us.
    """
    if not wanted:
        return set()
    ids, fingerprints, timestamps = zip(*wanted, strict=True)
    rows = await connection.fetch(
        """INSERT INTO event_ids (event_id, fingerprint, timestamp)
           SELECT * FROM unnest($1::text[], $2::bigint[], $3::timestamptz[])
           ON CONFLICT (event_id) DO NOTHING RETURNING event_id""",
        ids,
        fingerprints,
        timestamps,
    )
    return {row["event_id"] for row in rows}


async def find(connection: Connection, event_ids: Sequence[str]) -> Mapping[str, int]:
    """The fingerprints of some ids that are taken; to be asked in a statement of its own after :func:`take`."""
    rows = await connection.fetch(
        "SELECT event_id, fingerprint FROM event_ids WHERE event_id = ANY($1::text[])", event_ids
    )
    return {row["event_id"]: row["fingerprint"] for row in rows}
