"""The projector of one shard: an activity that runs for as long as there are workers."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.projector import Projector
    from models.messages.projection import PROJECTOR, ShardOfLog

_HEARTBEAT = timedelta(seconds=5)
"""How soon the shards of a dead worker move to living ones."""
_TURN = timedelta(hours=1)
"""Far above what the activity takes by itself before it returns."""
_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=2)
)


@workflow.defn(name=PROJECTOR)
class ProjectorWorkflow:
    """Keeps one shard followed, for ever: each run is one turn."""

    @workflow.run
    async def run(self, shard: ShardOfLog) -> None:
        """Follow the shard for a turn, on whatever worker, and begin anew."""
        await workflow.execute_activity_method(
            Projector.follow,
            shard,
            start_to_close_timeout=_TURN,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_RETRY,
        )
        workflow.continue_as_new(shard)
