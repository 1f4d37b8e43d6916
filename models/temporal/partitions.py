"""What the schedule that makes partitions is called, and what it tells."""

from __future__ import annotations

from models.temporal.execution import TemporalPayload

PARTITIONS = "partitions"
PARTITIONS_ID = "system/partitions"


class PartitionsMade(TemporalPayload):
    """The months whose partitions were missing, as their first days."""

    months: list[str]
