"""The partitions of the log, made ahead of time by a schedule."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.partitions import Partitions
    from models.temporal.partitions import PARTITIONS, PartitionsMade
    from models.temporal.public_text import PublicText


@workflow.defn(name=PARTITIONS)
class PartitionsWorkflow:
    """Makes what is missing of this month's and the next months' partitions."""

    @workflow.run
    async def run(self) -> PartitionsMade:
        """One look; the schedule calls again tomorrow."""
        return await workflow.execute_activity_method(
            Partitions.make_ahead,
            start_to_close_timeout=timedelta(minutes=1),
            summary=PublicText("Make the months' partitions ahead"),
        )
