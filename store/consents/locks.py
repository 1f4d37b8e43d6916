"""The gate between ingest and whoever takes a permission away: advisory locks on 256 buckets of users.

An ingest shares the buckets of its people, and reads what they permit in its **next** statement: under READ
COMMITTED that one sees whatever was committed before the lock was given. Whoever withdraws (a consent, a
preference, the person) holds the buckets alone when committing, and answers after that. So an ingest either
commits before the withdrawal does, or sees it. A lock for each user would exhaust the lock table.

The order in which locks are taken is the same everywhere, so that nobody waits in a circle:

1. rows (`users ... FOR UPDATE`, in the order of their ids; inserts of new people),
2. then the buckets, sorted, with :func:`exclude`; nobody's row is locked after that but those of the people held,
3. then what the withdrawal writes and ends, and COMMIT.

An ingest takes no row lock before :func:`share`, and afterwards only inserts event ids, sorted.
"""

from __future__ import annotations

from collections.abc import Iterable

from models.rules.sharding import bucket_of
from store.connection import Connection

CLASS = 0x636E_736E
"""Our class of two-part advisory locks ("cnsn"); the second part is the bucket."""


async def share(connection: Connection, user_ids: Iterable[str]) -> None:
    """Hold off withdrawals of some people until this transaction ends; read what they permit afterwards."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock_shared($1, bucket) FROM unnest($2::integer[]) AS bucket",
        CLASS,
        sorted({bucket_of(user_id) for user_id in user_ids}),
    )


async def exclude(connection: Connection, user_ids: Iterable[str]) -> None:
    """Wait for every ingest that has begun for some people, and hold off others until this transaction ends.

    To be called when all row locks have been taken, and before the withdrawal is written: the time that the clock
    then shows is later than that of every event that was still taken.
    """
    buckets = sorted({bucket_of(user_id) for user_id in user_ids})
    if buckets:
        await connection.execute(
            "SELECT pg_advisory_xact_lock($1, bucket) FROM unnest($2::integer[]) AS bucket", CLASS, buckets
        )
