"""Consents: the present state and its append-only history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from store.connection import Connection


@dataclass(frozen=True)
class ConsentChange:
    """What a person has said about one purpose."""

    user_id: str
    purpose: str
    granted: bool


async def of_users(connection: Connection, user_ids: Collection[str]) -> Mapping[str, dict[str, bool]]:
    """What some people have said, by purpose; empty for one who has said nothing."""
    rows = await connection.fetch(
        "SELECT user_id, purpose, granted FROM consents WHERE user_id = ANY($1::text[])", list(user_ids)
    )
    found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        found[row["user_id"]][row["purpose"]] = row["granted"]
    return found


async def record(connection: Connection, changes: Sequence[ConsentChange], *, source: str, actor: str) -> None:
    """Set consents, and write those that differ from what stood to the history, in one statement.

    ``actor`` is the id of the API key that passed them on. Rows are taken in one order, so that two
    transactions with the same people wait for each other instead of deadlocking.
    """
    if not changes:
        return
    ordered = sorted(changes, key=lambda change: (change.user_id, change.purpose))
    await connection.execute(
        """WITH changed AS (
               INSERT INTO consents AS c (user_id, purpose, granted)
               SELECT * FROM unnest($1::text[], $2::text[], $3::boolean[])
               ON CONFLICT (user_id, purpose) DO UPDATE SET granted = excluded.granted, changed_at = now()
               WHERE c.granted <> excluded.granted
               RETURNING user_id, purpose, granted)
           INSERT INTO consent_history (user_id, purpose, granted, source, actor)
           SELECT user_id, purpose, granted, $4, $5 FROM changed""",
        [change.user_id for change in ordered],
        [change.purpose for change in ordered],
        [change.granted for change in ordered],
        source,
        actor,
    )
