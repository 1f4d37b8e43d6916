"""Starts by trigger: at most one for a user within a window, and what counts for its waits."""

from __future__ import annotations

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


async def remember(connection: Connection, instance_id: str, event_id: str, happened_at: datetime) -> None:
    """Note which event has started an instance.

    Its waits and exits count what came after that event and not only after the start, which may be late: what
    was received since, and didn't happen before. A clock that is ahead is taken for no later than the receipt.
    """
    await connection.execute(
        """
        UPDATE instances
        SET trigger_event_id = e.event_id, events_since = e.received_at,
            events_from = least(e.timestamp, e.received_at)
        FROM events e
        WHERE instance_id = $1 AND e.event_id = $2 AND e.timestamp = $3 AND trigger_event_id IS NULL
        """,
        instance_id,
        event_id,
        happened_at,
    )
