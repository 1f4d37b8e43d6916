"""Writes recomputed projections (:mod:`store.events.rebuilding`) in place of the stored ones.

Tables and rows come in the order of :mod:`store.events.projection`. No event is recorded, no workflow starts, and
no lifecycle stage moves. Users whose totals change are due for a sweep of stages again, which finds when they are
really due.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Interval, bindparam, delete, func, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import SQLModel, col

from models.audit import SYSTEM, AuditEntry
from models.rules.folding import TransactionEntry
from models.rules.rebuilding import ActivityTotals, Projected
from models.rules.stages import Periods
from models.tables.projections import FeatureUsage, PurchaseTotal, Transaction, UserActivity
from privacy.encryption import DataKey
from store.audit import entries
from store.connection import Connection
from store.events import visits
from store.events.projection import ORDER_ID
from store.events.rebuilding import Comparison
from store.events.visits import columns
from store.statements import Statement, select, statement, unnested


class _Table:
    """Statements that delete rows by their keys, and insert or replace rows."""

    def __init__(self, model: type[SQLModel], key: Sequence[str], *names: str) -> None:
        self._key, self._names = key, (*key, *names)
        gone = unnested("gone", *(getattr(model, name) for name in key))
        keys = tuple_(*(getattr(model, name) for name in key))
        self._delete: Statement = statement(delete(model).where(keys.in_(select(*gone.c))))
        given = unnested("given", *(getattr(model, name) for name in self._names))
        new = insert(model).from_select(self._names, select(*given.c))
        values = {name: new.excluded[name] for name in names}
        self._write: Statement = statement(new.on_conflict_do_update(index_elements=list(key), set_=values))

    async def replace(
        self, connection: Connection, gone: Collection[tuple[Any, ...]], new: Collection[tuple[Any, ...]]
    ) -> int:
        if gone:
            await self._delete.execute(connection, **columns(self._key, sorted(gone)))
        if new:
            # The columns of the key differ in each row, so the others are not compared.
            await self._write.execute(connection, **columns(self._names, sorted(new)))
        return len(gone) + len(new)


_TRANSACTIONS = _Table(
    Transaction, ("event_id",), "user_id", "kind", "order_id", "amount", "currency", "occurred_at"
)
_PURCHASES = _Table(
    PurchaseTotal,
    ("user_id", "currency"),
    *("purchases", "revenue", "last_purchase_at", "first_purchase_at"),
)
_FEATURES = _Table(FeatureUsage, ("user_id", "feature"), "uses")

_TOTALS = (
    *("user_id", "session_count", "last_session_date", "total_session_seconds"),
    *("decayed_sessions", "decayed_actions", "last_historical_at"),
)
_GIVEN = unnested("given", *(getattr(UserActivity, name) for name in _TOTALS))
_DUE = _GIVEN.c.last_session_date + bindparam("at_risk_after", type_=Interval())
_NEW = insert(UserActivity).from_select((*_TOTALS, "stage_due_at"), select(*_GIVEN.c, _DUE))
_WRITE_TOTALS = statement(
    _NEW.on_conflict_do_update(
        index_elements=["user_id"],
        # Without `updated_at`, from which the retention of inactive profiles counts.
        set_={name: _NEW.excluded[name] for name in _TOTALS[1:]}
        | {"stage_due_at": func.least(col(UserActivity.stage_due_at), _NEW.excluded.stage_due_at)},
    )
)


async def replace(connection: Connection, found: Comparison, periods: Periods, actor: str) -> int:
    """Write differences, audited, under the exclusive buckets of the users; returns the number of changed rows."""
    pairs = [(user_id, each.stored, each.wanted) for user_id, each in sorted(found.differences.items())]
    if not pairs:
        return 0
    gone = [(user_id, *visit[:2]) for user_id, had, new in pairs for visit in had.visits - new.visits]
    kept = [(user_id, *visit) for user_id, had, new in pairs for visit in new.visits - had.visits]
    longer = {visit[:3] for visit in kept}
    gone = [key for key in gone if key not in longer]
    await visits.replace(connection, gone, kept)
    rows = len(gone) + len(kept)
    rows += await _write_totals(connection, pairs, periods)
    rows += await _TRANSACTIONS.replace(
        connection,
        *_changed(pairs, lambda each: each.transactions, lambda user_id, event_id: (event_id,), _row(found.keys)),
    )
    rows += await _PURCHASES.replace(
        connection, *_changed(pairs, lambda each: each.purchases, lambda *key: key, lambda sums: tuple(sums))
    )
    rows += await _FEATURES.replace(
        connection, *_changed(pairs, lambda each: each.features, lambda *key: key, lambda uses: (uses,))
    )
    await entries.append(
        connection,
        [
            AuditEntry(
                actor, SYSTEM, "projections.replace", subjects=list(found.differences), details={"rows": rows}
            )
        ],
    )
    return rows


_Pair = tuple[str, Projected, Projected]


def _changed(
    pairs: Iterable[_Pair],
    rows_of: Callable[[Projected], Mapping[str, Any]],
    key_of: Callable[[str, str], tuple[Any, ...]],
    values_of: Callable[[Any], tuple[Any, ...]],
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Keys of rows that go, and rows that are new or differ."""
    gone, new = [], []
    for user_id, had, wanted in pairs:
        before, after = rows_of(had), rows_of(wanted)
        gone += [key_of(user_id, name) for name in before.keys() - after.keys()]
        new += [
            (*key_of(user_id, name), *values_of(each)) for name, each in after.items() if before.get(name) != each
        ]
    return gone, new


def _row(keys: Mapping[str, DataKey]) -> Callable[[TransactionEntry], tuple[Any, ...]]:
    def values(entry: TransactionEntry) -> tuple[Any, ...]:
        order_id = keys[entry.user_id].encrypt_json(ORDER_ID, entry.order_id, entry.event_id)
        return entry.user_id, entry.kind, order_id, entry.amount, entry.currency, entry.occurred_at

    return values


async def _write_totals(connection: Connection, pairs: Iterable[_Pair], periods: Periods) -> int:
    rows = [_totals_row(user_id, new.totals) for user_id, had, new in pairs if had.totals != new.totals]
    if rows:
        await _WRITE_TOTALS.execute(connection, **columns(_TOTALS, rows), at_risk_after=periods.at_risk_after)
    return len(rows)


def _totals_row(user_id: str, totals: ActivityTotals) -> tuple[Any, ...]:
    sessions, last, microseconds, *sums, historical = totals
    return user_id, sessions, last, microseconds / 1_000_000, *map(Decimal, sums), historical
