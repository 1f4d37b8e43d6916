"""Adds a projected batch of events to sessions, transactions and totals.

Rows are written in the order of their keys, and tables in a fixed order. So the projector and the replay of one
event never deadlock. The totals don't depend on how events are divided into batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from asyncpg import Record
from sqlalchemy import bindparam, func, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.rules.folding import Projection, TransactionEntry
from models.rules.rollups import SessionChange
from models.rules.stages import DEFAULT_PERIODS, Periods
from models.tables.projections import FeatureUsage, Transaction, UserActivity
from privacy.encryption import DataKey
from store.connection import Connection
from store.events import visits
from store.pages import readable_page
from store.statements import filtered, select, sql, statement, unnested
from store.users import users

ORDER_ID = "transactions.order_id"


async def write(
    connection: Connection,
    projection: Projection,
    keys: Mapping[str, DataKey],
    periods: Periods = DEFAULT_PERIODS,
) -> list[SessionChange]:
    """Add a projection in the caller's transaction; returns the changes of sessions, for rollups.

    ``keys`` are the data keys of its users. The caller has locked the users whose accounts it closes, as
    :func:`store.users.users.close_accounts` requires. No other transaction projects events of the same users
    meanwhile, as :mod:`store.events.visits` requires.
    """
    changes = []
    if projection.visits.times:
        changes = await visits.write(connection, projection.visits, periods)
    if projection.imported:
        await _write_imported(connection, projection.imported)
    if projection.transactions:
        await _write_transactions(connection, list(projection.transactions.values()), keys)
    if projection.features:
        await _write_features(connection, projection.features)
    if projection.closed:
        await users.close_accounts(connection, projection.closed)
    return changes


_IMPORTED = unnested("given", col(UserActivity.user_id), col(UserActivity.last_historical_at))
_WRITE_IMPORTED = statement(
    update(UserActivity)
    .values(last_historical_at=func.greatest(col(UserActivity.last_historical_at), _IMPORTED.c.last_historical_at))
    .where(col(UserActivity.user_id) == _IMPORTED.c.user_id)
)


async def _write_imported(connection: Connection, imported: Mapping[str, datetime]) -> None:
    """The rows exist: the statement before has written the sessions of the same events, and locked them."""
    await _WRITE_IMPORTED.execute(connection, user_id=list(imported), last_historical_at=list(imported.values()))


# SQL text: a CTE that writes two tables. Only new transactions are added to the totals.
_WRITE_TRANSACTIONS = sql(
    """
    WITH new AS (
        INSERT INTO transactions (event_id, user_id, kind, order_id, amount, currency, occurred_at)
        SELECT given.event_id, given.user_id, given.kind, given.order_id, given.amount, given.currency,
               given.occurred_at
          FROM unnest(cast(:event_ids AS text[]), cast(:user_ids AS text[]), cast(:kinds AS text[]),
                      cast(:order_ids AS bytea[]), cast(:amounts AS numeric[]), cast(:currencies AS text[]),
                      cast(:occurred_at AS timestamptz[]))
               AS given (event_id, user_id, kind, order_id, amount, currency, occurred_at)
        ON CONFLICT (event_id) DO NOTHING
        RETURNING user_id, kind, amount, currency, occurred_at)
    INSERT INTO purchase_totals AS t (user_id, currency, purchases, revenue, last_purchase_at, first_purchase_at)
    SELECT user_id, currency, count(*) FILTER (WHERE kind = 'purchase'),
           sum(CASE kind WHEN 'purchase' THEN amount ELSE -amount END),
           max(occurred_at) FILTER (WHERE kind = 'purchase'),
           min(occurred_at) FILTER (WHERE kind = 'purchase')
    FROM new GROUP BY user_id, currency ORDER BY user_id, currency
    ON CONFLICT (user_id, currency) DO UPDATE
    SET purchases = t.purchases + excluded.purchases, revenue = t.revenue + excluded.revenue,
        last_purchase_at = greatest(t.last_purchase_at, excluded.last_purchase_at),
        first_purchase_at = least(t.first_purchase_at, excluded.first_purchase_at)
    """
)


async def _write_transactions(
    connection: Connection, entries: Sequence[TransactionEntry], keys: Mapping[str, DataKey]
) -> None:
    ordered = sorted(entries, key=lambda entry: entry.event_id)
    await _WRITE_TRANSACTIONS.execute(
        connection,
        event_ids=[entry.event_id for entry in ordered],
        user_ids=[entry.user_id for entry in ordered],
        kinds=[entry.kind for entry in ordered],
        order_ids=[
            keys[entry.user_id].encrypt_json(ORDER_ID, entry.order_id, entry.event_id) for entry in ordered
        ],
        amounts=[entry.amount for entry in ordered],
        currencies=[entry.currency for entry in ordered],
        occurred_at=[entry.occurred_at for entry in ordered],
    )


_GIVEN = unnested("given", col(FeatureUsage.user_id), col(FeatureUsage.feature), col(FeatureUsage.uses))
_NEW_USES = insert(FeatureUsage).from_select(["user_id", "feature", "uses"], select(*_GIVEN.c))
_WRITE_FEATURES = statement(
    _NEW_USES.on_conflict_do_update(
        index_elements=["user_id", "feature"],
        set_={"uses": col(FeatureUsage.uses) + _NEW_USES.excluded.uses},
    )
)


async def _write_features(connection: Connection, features: Mapping[tuple[str, str], int]) -> None:
    ordered = sorted(features.items())
    await _WRITE_FEATURES.execute(
        connection,
        user_id=[user_id for (user_id, _), _ in ordered],
        feature=[feature for (_, feature), _ in ordered],
        uses=[uses for _, uses in ordered],
    )


TRANSACTION: list[Any] = [
    col(Transaction.event_id),
    col(Transaction.user_id),
    col(Transaction.kind),
    col(Transaction.order_id),
    col(Transaction.amount),
    col(Transaction.currency),
    col(Transaction.occurred_at),
]
_TRANSACTIONS = filtered(
    select(*TRANSACTION)
    .where(col(Transaction.user_id) == bindparam("user_id"))
    .order_by(col(Transaction.occurred_at).desc(), col(Transaction.event_id).desc())
    .limit(bindparam("limit")),
    before=tuple_(col(Transaction.occurred_at), col(Transaction.event_id))
    < tuple_(bindparam("occurred_at"), bindparam("event_id")),
)


async def transactions_page(
    connection: Connection, key: DataKey, *, before: tuple[datetime, str] | None, limit: int
) -> list[TransactionEntry]:
    """Purchases and refunds of the key's user, newest first, before a (time, event id), without damaged ones."""

    async def read(place: tuple[datetime, str] | None, number: int) -> list[Record]:
        occurred_at, event_id = place or (None, None)
        return await _TRANSACTIONS.fetch(
            connection, user_id=key.subject, limit=number, occurred_at=occurred_at, event_id=event_id
        )

    return await readable_page(
        read,
        lambda row: TransactionEntry(
            **{**row, "order_id": key.decrypt_json(ORDER_ID, row["order_id"], row["event_id"])}
        ),
        lambda row: (row["occurred_at"], row["event_id"]),
        after=before,
        limit=limit,
    )


_FEATURES = filtered(
    select(col(FeatureUsage.feature), col(FeatureUsage.uses))
    .where(col(FeatureUsage.user_id) == bindparam("user_id"))
    .order_by(col(FeatureUsage.feature))
    .limit(bindparam("limit")),
    after=col(FeatureUsage.feature) > bindparam("feature"),
)


async def features_page(
    connection: Connection, user_id: str, *, after: str | None, limit: int
) -> list[tuple[str, int]]:
    """The features that a user has used, each with its uses, ordered by name, after a name."""
    rows = await _FEATURES.fetch(connection, user_id=user_id, feature=after, limit=limit)
    return [(row["feature"], row["uses"]) for row in rows]
