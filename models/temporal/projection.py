"""What travels between the projector's workflow and its activity."""

from __future__ import annotations

from models.rules.sharding import SHARDS
from models.temporal.execution import TemporalPayload

PROJECTOR = "projector"
"""The projector's name: as a consumer of the log, and as a workflow type."""


class ShardOfLog(TemporalPayload):
    """A shard of the event log, to be followed."""

    shard: int


def projector_workflow_id(shard: int) -> str:
    """The one builder of Temporal workflow ids for the projector."""
    return f"{PROJECTOR}/{shard}"


ALL_SHARDS = tuple(ShardOfLog(shard=shard) for shard in range(SHARDS))
