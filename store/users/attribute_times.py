"""The times at which attributes of profiles changed, in `users.attribute_times`.

They decide whether a change that arrives late is older than the stored value
(:mod:`models.rules.profile_changes`). A profile has at most 24 of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Text, cast, column, func, literal_column, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import col

from models.rules.profile import Profile
from models.rules.profile_changes import CREATED, changed_attributes, micros
from models.tables.people import User
from store.connection import Connection
from store.statements import select, statement, unnested

Times = Mapping[str, Mapping[str, int | None]]
"""By user id and attribute: a place of a change, or None for the time of the statement."""

TIMES: Any = column("times", JSONB)
"""A column of :func:`store.statements.unnested` with a user's new times."""


def _micros(moment: Any) -> Any:
    return cast(func.extract("epoch", moment) * 1_000_000, BigInteger)


_NOW = func.to_jsonb(_micros(func.statement_timestamp()))
_HELD = func.coalesce(
    col(User.attribute_times),
    func.jsonb_build_object(literal_column(f"'{CREATED}'"), _micros(col(User.updated_at))),
)


def with_times(times: Any) -> Any:
    """The stored times and the new ones of a column :data:`TIMES`."""
    each = func.jsonb_each(times).table_valued(column("key", Text), column("value", JSONB), name="each")
    value = func.coalesce(func.nullif(each.c.value, literal_column("'null'::jsonb")), _NOW)
    new = select(func.jsonb_object_agg(each.c.key, value)).select_from(each).scalar_subquery()
    return _HELD.op("||")(func.coalesce(new, literal_column("'{}'::jsonb")))


def with_present_time(attribute: str) -> Any:
    """The stored times, with the present one for an attribute."""
    return _HELD.op("||")(func.jsonb_build_object(literal_column(f"'{attribute}'"), _NOW))


_GIVEN = unnested("given", col(User.user_id), TIMES)
_RECORD = statement(
    update(User).values(attribute_times=with_times(_GIVEN.c.times)).where(col(User.user_id) == _GIVEN.c.user_id)
)


async def record(connection: Connection, times: Times) -> None:
    """Record changes to the values that are stored already, in rows that this transaction has locked."""
    given = {user_id: each for user_id, each in times.items() if each}
    if given:
        await _RECORD.execute(connection, user_id=list(given), times=[dict(each) for each in given.values()])


def of_changes(before: Mapping[str, Profile], changed: Sequence[Profile], times: Times) -> list[dict[str, Any]]:
    """New times of changed profiles: the given ones, and the present for other attributes that have changed."""
    return [
        {**dict.fromkeys(changed_attributes(before[each.user_id], each)), **times.get(each.user_id, {})}
        for each in changed
    ]


def opened(times: Mapping[str, int] | None, created_at: datetime, updated_at: datetime) -> Mapping[str, int]:
    """The times of a row, with the time of its creation; of a row without times that of its last change."""
    if times is None:
        return {CREATED: micros(updated_at)}
    return {CREATED: micros(created_at), **times}
