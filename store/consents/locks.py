"""Advisory locks that order ingest and withdrawals of a permission: 256 buckets of users.

An ingest locks the buckets of its users in shared mode, and reads their consents in its **next** statement. Under
READ COMMITTED that statement sees everything that was committed before the lock was granted. A withdrawal (of a
consent, of a preference, of the person) holds the bucket exclusively when it commits, and is answered after that.
So an ingest commits before the withdrawal, or sees it. A lock for each user would exhaust Postgres' lock table.

All transactions take locks in one order, so that they never wait in a circle:

1. rows (`users ... FOR UPDATE` in the order of their ids; inserts of new users),
2. then buckets in their order, with :func:`exclude`; after that only rows of the users in those buckets,
3. then the writes of the withdrawal, and COMMIT.

An ingest locks no row before :func:`share`. After it, it only inserts event ids, in their order.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Integer, column, func

from models.rules.sharding import bucket_of
from store.connection import Connection
from store.statements import select, statement, unnested

CLASS = 0x636E_736E
"""The first key of these two-part advisory locks ("cnsn"); the second is the bucket."""

_GIVEN = unnested("given", column("bucket", Integer))
_SHARE = statement(select(func.pg_advisory_xact_lock_shared(CLASS, _GIVEN.c.bucket)))
_EXCLUDE = statement(select(func.pg_advisory_xact_lock(CLASS, _GIVEN.c.bucket)))


async def share(connection: Connection, user_ids: Iterable[str]) -> None:
    """Delay withdrawals of some users until this transaction ends; read their consents in the next statement."""
    await _SHARE.execute(connection, bucket=sorted({bucket_of(user_id) for user_id in user_ids}))


async def exclude(connection: Connection, user_ids: Iterable[str]) -> None:
    """Wait for the ingests that have begun for some users, and delay others until this transaction ends.

    Call it after all row locks, and before the withdrawal is written. The clock then gives the withdrawal a later
    time than any event that an earlier ingest has stored.
    """
    buckets = sorted({bucket_of(user_id) for user_id in user_ids})
    if buckets:
        await _EXCLUDE.execute(connection, bucket=buckets)
