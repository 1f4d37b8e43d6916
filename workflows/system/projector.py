"""The projector of one shard: an activity that runs for as long as there are workers."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.projector import Projector
    from models.temporal.projection import PROJECTOR, ShardOfLog
    from workflows.system.turns import HEARTBEAT, RETRY, TURN


@workflow.defn(name=PROJECTOR)
class ProjectorWorkflow:
    """Keeps one shard followed, for ever: each run is one turn."""

    @workflow.run
    async def run(self, shard: ShardOfLog) -> None:
        """Follow the shard for a turn, on whatever worker, and begin anew."""
        await workflow.execute_activity_method(
            Projector.follow,
            shard,
            start_to_close_timeout=TURN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
        )
        workflow.continue_as_new(shard)
