"""Advisory locks that order ingest and withdrawals of permissions: 256 buckets of users.

An ingest locks the buckets of its users in shared mode, and reads their consents in its **next** statement. Under
READ COMMITTED that statement sees everything that was committed before the lock was granted. A withdrawal
(of a consent or a preference, or an erasure) holds the bucket exclusively until it commits. The API responds after
the commit. So an ingest either commits before the withdrawal, or sees it.

The locks are per bucket because a lock per user would exhaust Postgres' lock table.

All transactions take locks in this order, so that they never deadlock:

1. rows (`users ... FOR UPDATE` in the order of their ids; inserts of new users),
2. then buckets in their order, in one statement; after that only rows of the users in excluded buckets,
3. then the writes of the withdrawal, and COMMIT.

An ingest locks no row before :func:`share`. After that it only inserts event ids, in sorted order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Boolean, Integer, case, column, func

from models.rules.sharding import bucket_of
from store.connection import Connection
from store.statements import select, statement, unnested

CLASS = 0x636E_736E
"""The first key of these two-part advisory locks ("cnsn"); the second is the bucket."""

_GIVEN = unnested("given", column("bucket", Integer))
_SHARE = statement(select(func.pg_advisory_xact_lock_shared(CLASS, _GIVEN.c.bucket)))
_EXCLUDE = statement(select(func.pg_advisory_xact_lock(CLASS, _GIVEN.c.bucket)))


async def share(connection: Connection, user_ids: Iterable[str]) -> None:
    """Block withdrawals of users until this transaction ends. Read their consents in the **next** statement."""
    await _SHARE.execute(connection, bucket=sorted({bucket_of(user_id) for user_id in user_ids}))


_MIXED = unnested("given", column("bucket", Integer), column("excluded", Boolean))
_SHARE_AND_EXCLUDE = statement(
    select(
        case(
            (_MIXED.c.excluded, func.pg_advisory_xact_lock(CLASS, _MIXED.c.bucket)),
            else_=func.pg_advisory_xact_lock_shared(CLASS, _MIXED.c.bucket),
        )
    )
)


async def share_and_exclude(connection: Connection, shared: Iterable[str], excluded: Collection[str]) -> None:
    """:func:`share` and :func:`exclude` in one statement, so that all buckets are locked in their order."""
    if not excluded:
        await share(connection, shared)
        return
    exclusive = {bucket_of(user_id) for user_id in excluded}
    buckets = sorted({bucket_of(user_id) for user_id in shared} | exclusive)
    await _SHARE_AND_EXCLUDE.execute(
        connection, bucket=buckets, excluded=[bucket in exclusive for bucket in buckets]
    )


async def exclude(connection: Connection, user_ids: Iterable[str]) -> None:
    """Wait for running ingests of users, and block new ones until this transaction ends.

    Call it after all row locks, and before the withdrawal is written. So the withdrawal gets a later time than any
    event that an earlier ingest has stored.
    """
    buckets = sorted({bucket_of(user_id) for user_id in user_ids})
    if buckets:
        await _EXCLUDE.execute(connection, bucket=buckets)
