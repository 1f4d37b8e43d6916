"""What workflows do to profiles."""

from __future__ import annotations

from temporalio import activity

from models.temporal.execution import StageChange, StageChanged
from runtime.database import Database
from store.users import stages


class Profiles:
    """Changes profiles on behalf of workflows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="profiles.set_stage")
    async def set_stage(self, change: StageChange) -> StageChanged:
        """Move the user to a lifecycle stage; a pinned stage stays. Setting it twice changes nothing more."""
        async with self._database.connection() as connection:  # one statement
            changed = await stages.move(connection, change.step_context.user_id, change.stage)
        return StageChanged(stage=change.stage, changed=changed)
