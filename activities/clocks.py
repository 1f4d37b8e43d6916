"""What time it is for a customer: the zone is read just in time, and only a moment is told."""

from __future__ import annotations

from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.rules.local_time import next_local, zone_of
from models.temporal.execution import LocalTime, Moment
from privacy.encryption import Cipher
from runtime.database import Database
from store.users import time_zones


class Clocks:
    """Answers for wall-clock times where customers live."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    @activity.defn(name="clocks.next_local")
    async def next_local(self, question: LocalTime) -> Moment:
        """The next moment of a wall-clock time. The history never learns of the zone."""
        async with self._database.connection() as connection:
            zone = zone_of(await time_zones.find(connection, self._cipher, question.user_id))
        quiet = question.quiet.begins, question.quiet.ends
        try:
            return Moment(at=next_local(question.after, zone, question.at, question.weekdays, quiet))
        except ValueError as error:
            raise ApplicationError(str(error), type="NoSuchTime", non_retryable=True) from error
