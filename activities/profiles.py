"""Activities on profiles: lifecycle stages, and the local time of users."""

from __future__ import annotations

from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.rules.local_time import next_local, zone_of
from models.temporal.execution import LocalTime, Moment, StageChange, StageChanged
from privacy.encryption import Cipher
from runtime.database import Database
from store.users import users


class Profiles:
    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="profiles.set_stage")
    async def set_stage(self, change: StageChange) -> StageChanged:
        """Move the user to a lifecycle stage, unless the stage is pinned. A repeated call changes nothing."""
        async with self._database.connection() as connection:  # one statement, which commits by itself
            changed = await users.move_to_stage(connection, change.step_context.user_id, change.stage)
        return StageChanged(stage=change.stage, changed=changed)


class Clocks:
    """Computes wall-clock times in the users' time zones."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    @activity.defn(name="clocks.next_local")
    async def next_local(self, question: LocalTime) -> Moment:
        """The next time at which a user's clock shows a wall-clock time.

        The result is the point in time alone, so that Temporal's history never contains the time zone.
        """
        async with self._database.connection() as connection:
            zone = zone_of(await users.time_zone(connection, self._cipher, question.user_id))
        quiet = question.quiet.begins, question.quiet.ends
        try:
            return Moment(at=next_local(question.after, zone, question.at, question.weekdays, quiet))
        except ValueError as error:
            raise ApplicationError(str(error), type="NoSuchTime", non_retryable=True) from error
