"""Recomputes what the projector has written for users, from the log, and replaces what differs.

:func:`compare` reads, and needs one state of the database. That is a snapshot (REPEATABLE READ), or the buckets of
the users (:func:`store.consents.locks.exclude`), which the caller of :func:`replace` holds. Under these buckets
nothing projects events of the users:

- A projector holds the buckets of its batch in shared mode until its commit. Then the cursor and the effects are
  visible together. A later batch of these users waits, and reads visits and totals after this commit.
- :func:`store.events.poison.replay` holds the bucket exclusively. Its event is open for this comparison until its
  commit, and has its effects after it.
- An ingest waits. What it stores comes after the cursor.
- An erasure destroys the data key under the bucket. Users without a key are left out.

The cursor isn't locked: other batches may move it meanwhile, but not past an event of these users. So a shard
waits only if it has events of these users.

Retention takes no bucket. It deletes events and rows that are older than a cutoff. The comparison begins an hour
after the cutoff, and ends with a look at it: if it has moved past the beginning, :class:`RetentionMovedError` is
raised. A redaction changes no property from which projections are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncpg import Record
from sqlalchemy import bindparam, func
from sqlmodel import col

from models.rules.folding import Projection, TransactionEntry
from models.rules.rebuilding import ActivityTotals, Projected, PurchaseSums, Scope, Visit, recomputed
from models.rules.retention import AUDIT, EVENTS, TRANSACTIONS
from models.tables.events import Event, PoisonEvent
from models.tables.people import User
from models.tables.projections import FeatureUsage, PurchaseTotal, Session, Transaction, UserActivity
from models.tables.retention import RetentionResult
from models.temporal.system import PROJECTOR
from privacy.encryption import Cipher, DataKey, DecryptionError
from store.connection import Connection
from store.events import log, partitions
from store.events.partitions import PartitionState
from store.events.projection import ORDER_ID, TRANSACTION
from store.retention import periods
from store.statements import one_of, select, statement
from store.users import data_keys

_MARGIN = timedelta(hours=1)
_LOCK = 0x7265_6275_696C_64  # "rebuild"
_UNREADABLE = "\0"
"""In place of an order id that can't be decrypted: it equals none."""


class RetentionMovedError(Exception):
    """Retention's cutoff has moved past the beginning of the comparison: roll back and compare again."""


@dataclass
class Difference:
    stored: Projected
    wanted: Projected


@dataclass
class Comparison:
    users: int = 0
    complete: int = 0
    """Users whose whole history is in the log, so that all their figures were compared."""
    unreadable: list[str] = field(default_factory=list)
    """Users whose data key or events can't be decrypted or used. They are left as they are."""
    differences: dict[str, Difference] = field(default_factory=dict)
    """By user id."""
    keys: dict[str, DataKey] = field(default_factory=dict)
    """Of users with a difference."""


_TRY_LOCK = statement(select(func.pg_try_advisory_lock(_LOCK)))


async def try_lock(connection: Connection) -> bool:
    """Try to be the only rebuild, until the session ends."""
    return bool(await _TRY_LOCK.fetchval(connection))


_COUNT = statement(select(func.count()).select_from(User))
_PAGE = statement(
    select(col(User.user_id))
    .where(col(User.user_id) > bindparam("after"))
    .order_by(col(User.user_id))
    .limit(bindparam("limit"))
)


async def count_users(connection: Connection) -> int:
    found: int = await _COUNT.fetchval(connection)
    return found


async def page_of_users(connection: Connection, after: str, limit: int) -> list[str]:
    """The next user ids after one, in their order."""
    return [user_id for (user_id,) in await _PAGE.fetch(connection, after=after, limit=limit)]


async def compare(
    connection: Connection, cipher: Cipher, user_ids: Collection[str], since: datetime, session_timeout: timedelta
) -> Comparison:
    """Compare the projections of users from a time on. Raises :class:`RetentionMovedError`."""
    bounds = await _read_bounds(connection, since, _MARGIN)
    scopes = {
        user_id: bounds.scope(created_at, older)
        for user_id, created_at, older in await _USERS.fetch(
            connection, user_ids=list(user_ids), since=bounds.since
        )
    }
    keys = await data_keys.find_each(connection, cipher, scopes)
    found = Comparison(users=len(scopes), complete=sum(each.complete for each in scopes.values()))
    unreadable = {user_id for user_id, key in keys.items() if isinstance(key, DecryptionError)}
    usable = {user_id: key for user_id, key in keys.items() if isinstance(key, DataKey)}
    events = await _fold(connection, usable, bounds.since, unreadable)
    stored = await _read_rows(connection, usable)
    # Last: this look sees the cutoff of each deletion that the reads have seen.
    bounds.check(await _read_bounds(connection, since, timedelta()))
    for user_id in usable.keys() - unreadable:
        wanted = recomputed(stored[user_id], events[user_id], scopes[user_id], session_timeout)
        if wanted != stored[user_id]:
            found.differences[user_id] = Difference(stored[user_id], wanted)
            found.keys[user_id] = usable[user_id]
    found.unreadable = sorted(unreadable)
    return found


_OLDER = select(col(Event.event_id)).where(
    col(Event.user_id) == col(User.user_id), col(Event.timestamp) < bindparam("since")
)
_USERS = statement(
    select(col(User.user_id), col(User.created_at), _OLDER.exists()).where(one_of(col(User.user_id), "user_ids"))
)
_DELETIONS = statement(
    select(col(RetentionResult.data_type), func.max(RetentionResult.updated_at))
    .where(
        one_of(col(RetentionResult.data_type), "data_types"),
        one_of(col(RetentionResult.action), "actions"),
        ~one_of(col(RetentionResult.part), "other_parts"),
        col(RetentionResult.rows) > 0,
    )
    .group_by(col(RetentionResult.data_type))
)


@dataclass(frozen=True)
class _Bounds:
    """From when on retention has deleted nothing, and when it has deleted something last."""

    since: datetime
    transactions_since: datetime
    visits_deleted_at: datetime
    transactions_deleted_at: datetime

    def scope(self, created_at: datetime, older: bool) -> Scope:
        """Of a user who was created after the last deletion, retention has deleted nothing."""
        visits_kept = created_at > self.visits_deleted_at
        return Scope(
            since=self.since,
            transactions_since=self.transactions_since,
            complete=visits_kept and not older,
            visits_kept=visits_kept,
            transactions_kept=created_at > self.transactions_deleted_at,
        )

    def check(self, later: _Bounds) -> None:
        if (
            later.since > self.since
            or later.transactions_since > self.transactions_since
            or later.visits_deleted_at > self.visits_deleted_at
            or later.transactions_deleted_at > self.transactions_deleted_at
        ):
            raise RetentionMovedError


async def kept_since(connection: Connection, since: datetime) -> datetime:
    """``since``, or the later time from which on the log has all events."""
    return (await _read_bounds(connection, since, _MARGIN)).since


async def _read_bounds(connection: Connection, since: datetime, margin: timedelta) -> _Bounds:
    now = datetime.now(UTC)
    older_than = (await periods.find(connection, EVENTS)).older_than(now)
    since = max(since, older_than + margin) if older_than else since
    for each in await partitions.find_all(connection):
        if each.state is not PartitionState.ATTACHED:
            since = max(since, each.ends)
    expired = (await periods.find(connection, TRANSACTIONS)).older_than(now)
    # Results are deleted with old rows of the audit log. Nothing is known of deletions before.
    known = now - timedelta(days=await periods.days_of(connection, AUDIT)) + margin
    rows = await _DELETIONS.fetch(
        connection,
        data_types=[EVENTS, TRANSACTIONS],
        actions=["dropped", "deleted"],
        other_parts=["poison_events", "temporal_outbox", "rollup_people", "rollup_index"],
    )
    last = {data_type: max(known, at) for data_type, at in rows}
    return _Bounds(
        since=since,
        transactions_since=max(since, expired + margin) if expired else since,
        visits_deleted_at=last.get(EVENTS, known),
        transactions_deleted_at=last.get(TRANSACTIONS, known),
    )


_SET_ASIDE = statement(
    select(col(PoisonEvent.event_id)).where(
        one_of(col(PoisonEvent.user_id), "user_ids"),
        col(PoisonEvent.consumer) == PROJECTOR,
        col(PoisonEvent.status) != "replayed",
    )
)


async def _fold(
    connection: Connection, keys: Mapping[str, DataKey], since: datetime, unreadable: set[str]
) -> dict[str, Projection]:
    """Fold the events that the projector has applied; adds the users of unusable ones to ``unreadable``."""
    projections = {user_id: Projection() for user_id in keys}
    rows = await _SET_ASIDE.fetch(connection, user_ids=list(keys))
    aside = {event_id for (event_id,) in rows}
    async for each in log.read_consumed(connection, PROJECTOR, list(keys), since):
        event = each.decrypted_with(keys[each.user_id])
        if event.event_id in aside or event.user_id in unreadable:
            continue
        try:
            projections[event.user_id].add(event)
        except Exception:  # noqa: BLE001 - any error of the pure code comes from the event
            unreadable.add(event.user_id)
    return projections


def _of_users(*columns: Any, user_id: Any) -> Any:
    return statement(select(*columns).where(one_of(user_id, "user_ids")))


_VISITS = _of_users(
    *(col(Session.user_id), col(Session.session_id), col(Session.first_at), col(Session.last_at)),
    user_id=col(Session.user_id),
)
_ACTIVITY = _of_users(
    *(col(UserActivity.user_id), col(UserActivity.session_count), col(UserActivity.last_session_date)),
    *(col(UserActivity.total_session_seconds), col(UserActivity.decayed_sessions)),
    *(col(UserActivity.decayed_actions), col(UserActivity.last_historical_at)),
    user_id=col(UserActivity.user_id),
)
_TRANSACTIONS = _of_users(*TRANSACTION, user_id=col(Transaction.user_id))
_PURCHASES = _of_users(
    *(col(PurchaseTotal.user_id), col(PurchaseTotal.currency), col(PurchaseTotal.purchases)),
    *(col(PurchaseTotal.revenue), col(PurchaseTotal.last_purchase_at), col(PurchaseTotal.first_purchase_at)),
    user_id=col(PurchaseTotal.user_id),
)
_FEATURES = _of_users(
    *(col(FeatureUsage.user_id), col(FeatureUsage.feature), col(FeatureUsage.uses)),
    user_id=col(FeatureUsage.user_id),
)


async def _read_rows(connection: Connection, keys: Mapping[str, DataKey]) -> dict[str, Projected]:
    """The stored projections, by user."""
    found = {user_id: Projected() for user_id in keys}
    user_ids = list(keys)
    for user_id, *visit in await _VISITS.fetch(connection, user_ids=user_ids):
        found[user_id].visits.add(Visit(*visit))
    for user_id, count, last, seconds, sessions, actions, historical in await _ACTIVITY.fetch(
        connection, user_ids=user_ids
    ):
        microseconds = round(seconds * 1_000_000)
        found[user_id].totals = ActivityTotals(count, last, microseconds, int(sessions), int(actions), historical)
    for row in await _TRANSACTIONS.fetch(connection, user_ids=user_ids):
        entry = _entry(row, keys[row["user_id"]])
        found[entry.user_id].transactions[entry.event_id] = entry
    for user_id, currency, *sums in await _PURCHASES.fetch(connection, user_ids=user_ids):
        found[user_id].purchases[currency] = PurchaseSums(*sums)
    for user_id, feature, uses in await _FEATURES.fetch(connection, user_ids=user_ids):
        found[user_id].features[feature] = uses
    return found


def _entry(row: Record, key: DataKey) -> TransactionEntry:
    try:
        order_id = key.decrypt_json(ORDER_ID, row["order_id"], row["event_id"])
    except DecryptionError:
        order_id = _UNREADABLE
    return TransactionEntry(**{**row, "order_id": order_id})
