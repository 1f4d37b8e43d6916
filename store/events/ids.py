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


async def take(connection: Connection, wanted: Sequence[tuple[str, int, datetime]]) -> int:
    """Take those of some (id, fingerprint, timestamp) whose ids are free; how many were.

    They must come in the order of their ids: whoever else takes one of them is waited for, and nobody in a
    circle. One that is rolled back leaves its id to us.
    """
    if not wanted:
        return 0
    ids, fingerprints, timestamps = zip(*wanted, strict=True)
    status = await connection.execute(
        """INSERT INTO event_ids (event_id, fingerprint, timestamp)
           SELECT * FROM unnest($1::text[], $2::bigint[], $3::timestamptz[])
           ON CONFLICT (event_id) DO NOTHING""",
        ids,
        fingerprints,
        timestamps,
    )
    return int(status.rpartition(" ")[2])


async def settle(connection: Connection, event_ids: Sequence[str]) -> tuple[set[str], Mapping[str, int]]:
    """Those of some ids that this transaction has taken, and the fingerprints of the others.

    To be asked in a statement of its own after :func:`take`, in a transaction without savepoints: a row's
    `xmin` tells who has put it there. An id that retention has taken away since is in neither.
    """
    rows = await connection.fetch(
        """SELECT event_id, fingerprint, xmin = pg_current_xact_id()::xid AS ours FROM event_ids
            WHERE event_id = ANY($1::text[])""",
        event_ids,
    )
    ours = {row["event_id"] for row in rows if row["ours"]}
    return ours, {row["event_id"]: row["fingerprint"] for row in rows if not row["ours"]}
