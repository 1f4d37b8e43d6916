"""Starts by trigger: at most one for a user within a window, and what counts for its waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from store.connection import Connection


async def open_window(
    connection: Connection, workflow_id: str, user_id: str, instance_id: str, once_per: timedelta
) -> bool:
    """Take the window of a workflow for a user; whether it was free, or this instance's already.

    In the transaction that stores the instance. Exact across processes: two of them meet at the row, and the
    second sees what the first has committed; one that is rolled back leaves the window as it was.
    """
    opened = await connection.fetchval(
        """
        INSERT INTO trigger_windows AS w (workflow_id, user_id, instance_id) VALUES ($1, $2, $3)
        ON CONFLICT (workflow_id, user_id) DO UPDATE
        SET instance_id = excluded.instance_id,
            opened_at = CASE WHEN w.instance_id = excluded.instance_id THEN w.opened_at ELSE now() END
        WHERE w.instance_id = excluded.instance_id OR w.opened_at <= now() - $4::interval
        RETURNING true
        """,
        workflow_id,
        user_id,
        instance_id,
        once_per,
    )
    return bool(opened)


async def taken(
    connection: Connection, wanted: Collection[tuple[str, str]], once_per: Mapping[str, timedelta]
) -> set[tuple[str, str]]:
    """Those of some (workflow, user) whose window is open as things stand: a start would be refused, so that
    nobody need be told of it. What counts is :func:`open_window`."""
    bound = [(workflow_id, user_id) for workflow_id, user_id in wanted if workflow_id in once_per]
    if not bound:
        return set()
    rows = await connection.fetch(
        """
        SELECT w.workflow_id, w.user_id
        FROM unnest($1::text[], $2::text[], $3::interval[]) AS asked (workflow_id, user_id, once_per)
        JOIN trigger_windows w USING (workflow_id, user_id)
        WHERE w.opened_at > now() - asked.once_per
        """,
        [workflow_id for workflow_id, _ in bound],
        [user_id for _, user_id in bound],
        [once_per[workflow_id] for workflow_id, _ in bound],
    )
    return {(row["workflow_id"], row["user_id"]) for row in rows}


async def remember(connection: Connection, instance_id: str, event_id: str, happened_at: datetime) -> None:
    """Note which event has started an instance.

    Its waits and exits count what came after that event and not only after the start, which may be late: what
    was received since, and didn't happen before. A clock that is ahead is taken for no later than the receipt.
    The event is the instance's person's, which the log's index by person finds it by.
    """
    await connection.execute(
        """
        UPDATE instances i
        SET trigger_event_id = e.event_id, events_since = e.received_at,
            events_from = least(e.timestamp, e.received_at)
        FROM events e
        WHERE i.instance_id = $1 AND i.trigger_event_id IS NULL
          AND e.user_id = i.user_id AND e.timestamp = $3 AND e.event_id = $2
        """,
        instance_id,
        event_id,
        happened_at,
    )
