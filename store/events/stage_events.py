"""Records changes of lifecycle stages as events, in the transactions of the changes, if consent permits."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import bindparam, func
from sqlmodel import col

from models.rules.folding import WORKFLOW_SESSION
from models.rules.ingest import PreparedEvent
from models.rules.stages import STAGE_CHANGED, StageCause
from models.rules.taxonomy import STANDARD
from models.tables.events import Event
from models.vocabulary import Basis, LifecycleStage
from privacy.encryption import Cipher
from store.connection import Connection
from store.events import events, partitions
from store.events.partitions import month_of
from store.statements import select, statement, unnested

SESSION = f"{WORKFLOW_SESSION}lifecycle"
_IDS = uuid.UUID("5b0c7c1e-6d8a-4c5e-9a53-0f8f6f2f9b41")


@dataclass(frozen=True, slots=True)
class StageChange:
    """A change that a transaction has made to a profile, which has ``version`` since then."""

    user_id: str
    source: LifecycleStage
    target: LifecycleStage
    cause: StageCause
    version: int
    created_at: datetime
    historical: bool = False
    number: int = 0
    """Of several changes of one version, from 0."""

    @property
    def event_id(self) -> str:
        """A hash. A transaction that is tried again records the same id, and no other change has it.

        The time of the creation tells apart people who had the same user id, one after the other.
        """
        created = self.created_at.timestamp()
        return uuid.uuid5(_IDS, f"{self.user_id}/{created:.6f}/{self.version}/{self.number}").hex


@dataclass(slots=True)
class _StageEvent(PreparedEvent):
    def dimensions(self, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Words of fixed sets. Checking each for personal data would double the cost of preparing the event."""
        return dict(parts["event_properties"])


_HAS_PARTITION = statement(select(func.to_regclass(bindparam("name")).is_not(None)))


async def record(connection: Connection, cipher: Cipher, changes: Sequence[StageChange]) -> None:
    """Record the changes that consents permit, dated now, in the caller's READ COMMITTED transaction.

    The caller has locked the users' rows, and then their buckets, shared or exclusively, in one statement with all
    others that it needs (:mod:`store.consents.locks`). So :func:`store.events.events.record` waits for no bucket,
    and reads consents in a statement after the lock, as it must: a withdrawal commits before the lock or after
    this transaction. Call it outside savepoints.
    """
    if not changes:
        return
    now = datetime.now(UTC)
    month = month_of(now)
    # A worker creates partitions months ahead. Only without one, this transaction does, and holds the log's lock.
    if not await _HAS_PARTITION.fetchval(connection, name=f"public.events_{month:%Y_%m}"):
        await partitions.ensure(connection, month)
    await events.record(connection, cipher, [_prepared(each, now) for each in changes])


def _prepared(change: StageChange, now: datetime) -> PreparedEvent:
    parts, body = _content(change.source, change.target, change.cause)
    at = now + timedelta(microseconds=change.number)
    return _StageEvent(
        change.event_id,
        change.user_id,
        STAGE_CHANGED,
        at,
        SESSION,
        change.historical,
        parts,
        body,
        STANDARD[STAGE_CHANGED],
    )


@lru_cache(maxsize=256)
def _content(
    source: LifecycleStage, target: LifecycleStage, cause: StageCause
) -> tuple[Mapping[str, Mapping[str, str]], bytes]:
    parts = {"event_properties": {"from": source.value, "to": target.value, "cause": cause.value}}
    return parts, orjson.dumps(parts)


_GIVEN = unnested("given", col(Event.user_id), col(Event.timestamp))
_LIVE_AT = statement(
    select(_GIVEN.c.user_id)
    .select_from(_GIVEN)
    .where(
        select(col(Event.event_id))
        .where(
            col(Event.user_id) == _GIVEN.c.user_id,
            col(Event.timestamp) == _GIVEN.c.timestamp,
            ~col(Event.historical),
            col(Event.basis) == Basis.CONSENT.value,
            ~func.starts_with(col(Event.session_id), WORKFLOW_SESSION),
        )
        .exists()
    )
)


async def with_live_event(connection: Connection, times: Mapping[str, datetime]) -> set[str]:
    """Of users and times those at which the user has an event that isn't historical."""
    if not times:
        return set()
    rows = await _LIVE_AT.fetch(connection, user_id=list(times), timestamp=list(times.values()))
    return {row["user_id"] for row in rows}
