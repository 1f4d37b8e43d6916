"""Temporal Schedules of the platform's own work: made, or brought up to date, by every worker that starts."""

from __future__ import annotations

from temporalio.client import Client, Schedule, ScheduleAlreadyRunningError, ScheduleOverlapPolicy, ScheduleUpdate


async def keep(client: Client, schedule_id: str, schedule: Schedule) -> None:
    """Make a schedule or bring it up to date, and run it now.

    A run under way is ended: it may wait for a task queue that nobody serves any more.
    """
    try:
        await client.create_schedule(schedule_id, schedule, trigger_immediately=True)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(schedule_id)
        await handle.update(lambda _: ScheduleUpdate(schedule=schedule))
        await handle.trigger(overlap=ScheduleOverlapPolicy.TERMINATE_OTHER)
