"""What the projector needs to know of the users of a batch before it takes locks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func
from sqlmodel import col

from models.rules.stages import COUNTING_SESSIONS, Standing
from models.tables.people import User
from models.tables.projections import UserActivity
from models.vocabulary import LifecycleStage
from store.connection import Connection
from store.statements import one_of, select, statement


@dataclass(frozen=True, slots=True)
class Person:
    """A user of a batch, read without a lock."""

    person: int
    """The number that stands for the user in rollups."""
    stage: LifecycleStage
    pinned: bool
    stage_changed_at: datetime
    created_at: datetime
    session_count: int
    """Only of a stage that the third session ends; else 0."""

    @property
    def standing(self) -> Standing:
        return Standing(self.stage, self.pinned, self.stage_changed_at, self.created_at, self.session_count)


_SESSIONS = (
    select(col(UserActivity.session_count)).where(col(UserActivity.user_id) == col(User.user_id)).scalar_subquery()
)
_COUNTED = case(*((col(User.lifecycle_stage) == each, _SESSIONS) for each in sorted(COUNTING_SESSIONS)))
_OF_BATCH = statement(
    select(
        col(User.user_id),
        col(User.person),
        col(User.lifecycle_stage),
        col(User.lifecycle_stage_pinned),
        col(User.lifecycle_stage_changed_at),
        col(User.created_at),
        func.coalesce(_COUNTED, 0).label("session_count"),
    ).where(one_of(col(User.user_id), "user_ids"))
)


async def of_batch(connection: Connection, user_ids: Collection[str]) -> Mapping[str, Person]:
    """By id; without users that were erased. A row may change until its user is locked."""
    rows = await _OF_BATCH.fetch(connection, user_ids=list(user_ids))
    return {user_id: Person(person, LifecycleStage(stage), *rest) for user_id, person, stage, *rest in rows}


async def numbers(connection: Connection, user_ids: Collection[str]) -> Mapping[str, int]:
    """By id, the numbers that stand for users in rollups; without users that were erased."""
    return {user_id: each.person for user_id, each in (await of_batch(connection, user_ids)).items()}
