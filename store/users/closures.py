"""Accounts that close because an event says so.

It is the one effect of the projector on a profile's own row. That row is taken before the buckets of
consent, as everywhere (:mod:`store.consents.consents.locks`): with the row last, the projector would hold a bucket and wait
for a row whose holder, who withdraws, waits for the bucket.
"""

from __future__ import annotations

from collections.abc import Collection

from store.connection import Connection


async def hold(connection: Connection, user_ids: Collection[str]) -> None:
    """Take the profiles that are about to close, in the order of their ids; before the buckets are shared."""
    if user_ids:
        await connection.execute(
            "SELECT FROM users WHERE user_id = ANY($1::text[]) ORDER BY user_id FOR UPDATE", list(user_ids)
        )


async def close(connection: Connection, user_ids: Collection[str]) -> None:
    """Close accounts that are still open; their profiles were taken with :func:`hold`.

    The period after which a closed account is erased begins now, not at the event's time: one that arrives
    late, or in an import, leaves whoever sent it by mistake as much time as any.
    """
    await connection.execute(
        """UPDATE users SET account_status = 'closed', closed_at = statement_timestamp(),
                  version = version + 1, updated_at = statement_timestamp()
            WHERE user_id = ANY($1::text[]) AND account_status <> 'closed'""",
        list(user_ids),
    )
