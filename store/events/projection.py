"""What a batch of events adds to sessions, transactions, totals and profiles: a statement or two each, set-based.

Rows are taken in the order of their keys and tables in one order, so that the projector and a replay of a
single event never deadlock. Everything adds up to the same, whatever the batches were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from models.rules.activity import Activity, CurrencyTotal
from models.rules.folding import Projection, TransactionEntry
from privacy.encryption import DataKey
from store.connection import Connection
from store.users import closures

_ORDER_ID = "transactions.order_id"

ACTIVITY = """
    (SELECT (a.session_count, a.last_session_date, a.total_session_seconds)
       FROM user_activity a WHERE a.user_id = u.user_id) AS activity,
    (SELECT jsonb_object_agg(f.feature, f.uses) FROM feature_usage f WHERE f.user_id = u.user_id) AS features,
    (SELECT array_agg((t.currency, t.purchases, t.revenue, t.last_purchase_at) ORDER BY t.currency)
       FROM purchase_totals t WHERE t.user_id = u.user_id) AS totals"""
"""Columns of a statement over ``users u`` that :func:`activity_of` reads."""


def activity_of(row: Mapping[str, Any] | asyncpg.Record) -> Activity:
    """What is computed of a person, from a row with the columns of :data:`ACTIVITY`."""
    count, last, seconds = row["activity"] or (0, None, 0.0)
    return Activity(
        session_count=count,
        last_session_date=last,
        total_session_seconds=seconds,
        features=row["features"] or {},
        totals=tuple(CurrencyTotal(*total) for total in row["totals"] or ()),
    )


async def write(connection: Connection, projection: Projection, keys: Mapping[str, DataKey]) -> None:
    """Add a projection to what is stored, in the caller's transaction; ``keys`` are those of its people, and
    whose account closes was taken with :func:`store.users.users.closures.hold`."""
    if projection.sessions:
        await _write_sessions(connection, projection.sessions)
    if projection.transactions:
        await _write_transactions(connection, list(projection.transactions.values()), keys)
    if projection.features:
        await _write_features(connection, projection.features)
    if projection.closed:
        await closures.close(connection, projection.closed)


async def _write_sessions(
    connection: Connection, sessions: Mapping[tuple[str, str], tuple[datetime, datetime]]
) -> None:
    """Widen sessions, and add what they have grown by to the totals of their users.

    The sum of seconds is rounded to the microsecond that timestamps have, so that a sum of floats doesn't
    depend on its order.
    """
    ordered = sorted(sessions.items())
    await connection.execute(
        """
        WITH widened AS (
            INSERT INTO sessions AS s (user_id, session_id, first_at, last_at)
            SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
            ON CONFLICT (user_id, session_id) DO UPDATE
            SET first_at = least(s.first_at, excluded.first_at), last_at = greatest(s.last_at, excluded.last_at)
            WHERE excluded.first_at < s.first_at OR excluded.last_at > s.last_at
            RETURNING new.user_id, new.last_at, old.user_id IS NULL AS born,
                      extract(epoch FROM new.last_at - new.first_at)
                      - coalesce(extract(epoch FROM old.last_at - old.first_at), 0) AS seconds)
        INSERT INTO user_activity AS a (user_id, session_count, last_session_date, total_session_seconds)
        SELECT user_id, count(*) FILTER (WHERE born), max(last_at), sum(seconds)
        FROM widened GROUP BY user_id ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE
        SET session_count = a.session_count + excluded.session_count,
            last_session_date = greatest(a.last_session_date, excluded.last_session_date),
            total_session_seconds = round((a.total_session_seconds + excluded.total_session_seconds) * 1e6) / 1e6,
            updated_at = now()
        """,
        [user_id for (user_id, _), _ in ordered],
        [session_id for (_, session_id), _ in ordered],
        [first for _, (first, _) in ordered],
        [last for _, (_, last) in ordered],
    )


async def _write_transactions(
    connection: Connection, entries: Sequence[TransactionEntry], keys: Mapping[str, DataKey]
) -> None:
    """Store purchases and refunds; what is new among them goes into the totals."""
    ordered = sorted(entries, key=lambda entry: entry.event_id)
    await connection.execute(
        """
        WITH fresh AS (
            INSERT INTO transactions (event_id, user_id, kind, order_id, amount, currency, occurred_at)
            SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::numeric[], $6::text[],
                                 $7::timestamptz[])
            ON CONFLICT (event_id) DO NOTHING
            RETURNING user_id, kind, amount, currency, occurred_at)
        INSERT INTO purchase_totals AS t (user_id, currency, purchases, revenue, last_purchase_at)
        SELECT user_id, currency, count(*) FILTER (WHERE kind = 'purchase'),
               sum(CASE kind WHEN 'purchase' THEN amount ELSE -amount END),
               max(occurred_at) FILTER (WHERE kind = 'purchase')
        FROM fresh GROUP BY user_id, currency ORDER BY user_id, currency
        ON CONFLICT (user_id, currency) DO UPDATE
        SET purchases = t.purchases + excluded.purchases, revenue = t.revenue + excluded.revenue,
            last_purchase_at = greatest(t.last_purchase_at, excluded.last_purchase_at)
        """,
        [entry.event_id for entry in ordered],
        [entry.user_id for entry in ordered],
        [entry.kind for entry in ordered],
        [keys[entry.user_id].encrypt_json(_ORDER_ID, entry.order_id) for entry in ordered],
        [entry.amount for entry in ordered],
        [entry.currency for entry in ordered],
        [entry.occurred_at for entry in ordered],
    )


async def _write_features(connection: Connection, features: Mapping[tuple[str, str], int]) -> None:
    ordered = sorted(features.items())
    await connection.execute(
        """
        INSERT INTO feature_usage AS f (user_id, feature, uses)
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
        ON CONFLICT (user_id, feature) DO UPDATE SET uses = f.uses + excluded.uses
        """,
        [user_id for (user_id, _), _ in ordered],
        [feature for (_, feature), _ in ordered],
        [uses for _, uses in ordered],
    )


async def transactions_page(
    connection: Connection, key: DataKey, *, before: tuple[datetime, str] | None, limit: int
) -> list[TransactionEntry]:
    """Purchases and refunds of the key's person, newest first, after a position in that order."""
    rows = await connection.fetch(
        """
        SELECT event_id, user_id, kind, order_id, amount, currency, occurred_at FROM transactions
        WHERE user_id = $1 AND ($2::timestamptz IS NULL OR (occurred_at, event_id) < ($2, $3))
        ORDER BY occurred_at DESC, event_id DESC LIMIT $4
        """,
        key.subject,
        before[0] if before else None,
        before[1] if before else None,
        limit,
    )
    return [TransactionEntry(**{**row, "order_id": key.decrypt_json(_ORDER_ID, row["order_id"])}) for row in rows]
