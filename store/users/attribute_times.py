"""The times at which attributes of profiles changed, in `users.attribute_times`.

They decide whether a change that arrives late is older than the stored value
(:mod:`models.rules.profile_changes`). A profile has at most 24 of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, cast, column, func, literal_column, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import col

from models.rules.profile import Profile
from models.rules.profile_changes import CREATED, changed_attributes, micros
from models.tables.people import User
from store.connection import Connection
from store.statements import one_of, select, statement, unnested

Times = Mapping[str, Mapping[str, int | None]]
"""By user id and attribute: the place of a change, or None for now."""

TIMES: Any = column("times", JSONB)
"""A column of :func:`store.statements.unnested` with a user's new times."""


def _micros(moment: Any) -> Any:
    return cast(func.extract("epoch", moment) * 1_000_000, BigInteger)


_HELD = func.coalesce(
    col(User.attribute_times),
    func.jsonb_build_object(literal_column(f"'{CREATED}'"), _micros(col(User.updated_at))),
)


def with_times(times: Any) -> Any:
    """The stored times and the new ones of a column :data:`TIMES`."""
    return _HELD.op("||")(times)


def with_present_time(attribute: str) -> Any:
    """The stored times, with the present one for an attribute."""
    return _HELD.op("||")(
        func.jsonb_build_object(literal_column(f"'{attribute}'"), _micros(func.statement_timestamp()))
    )


_NOW = statement(select(func.statement_timestamp()))


async def in_present(connection: Connection, times: Times) -> dict[str, dict[str, int]]:
    """The times, with the present instead of None: Postgres' clock, which also gives events their receipt.

    Call it after the rows are locked, so that a request that waited for another one is the later one.
    """
    now = None
    if any(at is None for each in times.values() for at in each.values()):
        now = micros(await _NOW.fetchval(connection))
    return {
        user_id: {name: now if at is None else at for name, at in each.items()}  # type: ignore[misc]
        for user_id, each in times.items()
    }


_GIVEN = unnested("given", col(User.user_id), TIMES)
_RECORD = statement(
    update(User).values(attribute_times=with_times(_GIVEN.c.times)).where(col(User.user_id) == _GIVEN.c.user_id)
)


async def record(connection: Connection, times: Times) -> None:
    """Record changes to the values that are stored already, in rows that this transaction has locked."""
    given = await in_present(connection, {user_id: each for user_id, each in times.items() if each})
    if given:
        await _RECORD.execute(connection, user_id=list(given), times=list(given.values()))


async def of_changes(
    connection: Connection, before: Mapping[str, Profile], changed: Sequence[Profile], times: Times
) -> list[dict[str, int]]:
    """New times of changed profiles; without given ones, the present for each attribute that has changed."""
    new = {
        each.user_id: times.get(each.user_id) or dict.fromkeys(changed_attributes(before[each.user_id], each))
        for each in changed
    }
    return list((await in_present(connection, new)).values())


_FIND = statement(
    select(
        *(col(User.user_id), col(User.attribute_times), col(User.created_at), col(User.updated_at)),
    ).where(one_of(col(User.user_id), "user_ids"))
)


async def find(connection: Connection, user_ids: Collection[str]) -> dict[str, Mapping[str, int]]:
    """By user: the places of changed attributes and the time of the creation, as `resolve` takes them.

    A profile that is older than the column counts as created when it was last changed.
    """
    found: dict[str, Mapping[str, int]] = {}
    for user_id, times, created_at, updated_at in await _FIND.fetch(connection, user_ids=list(user_ids)):
        found[user_id] = {CREATED: micros(updated_at)} if times is None else {CREATED: micros(created_at), **times}
    return found
