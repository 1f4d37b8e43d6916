"""The point of a history that a replay resets to, in histories that the installed SDK records."""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType

from delivery.resets import local_activity_ids, reset_point
from testing.people import Customer
from tests.dead_letters.conftest import Stage


async def test_a_marker_has_the_id_of_its_local_activity(served: Stage, customer: Customer) -> None:
    """The marker is internal to the SDK: this fails where another version of the SDK writes it otherwise."""
    run = await served.runs.start(customer.user_id, "in_a_row", still=True)
    await run.handle.result()
    history = (await run.handle.fetch_history()).events
    ids = [each for event in history for each in local_activity_ids(event)]
    assert ids.count("local") == 1
    assert not {"first", "outside"} & set(ids)


async def test_the_reset_point_is_the_workflow_task_that_began_the_step(served: Stage, customer: Customer) -> None:
    served.effects.failing = {"outside"}
    run = await served.failed(customer, "in_a_row")
    history = (await run.handle.fetch_history()).events
    first, local, outside = points = [reset_point(history, step) for step in ("first", "local", "outside")]
    assert first < local <= outside  # one task may end a short local activity and begin the next step
    completed = {e.event_id for e in history if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED}
    assert set(points) <= completed
    assert reset_point(history, None) >= points[-1]  # the task that shows the instance as failed
    assert reset_point(history, "unknown") == 0
