"""Activities on profiles: lifecycle stages, known attributes, and the local time of users."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.errors import UserErasedError, UserNotFoundError
from models.rules.known_profile import known_profile
from models.rules.local_time import next_local, zone_of
from models.temporal.execution import LocalTime, Moment, StageChange, StageChanged
from models.temporal.profiles import KnownProfile, ProfileQuestion
from models.vocabulary import Purpose
from privacy.encryption import Cipher, DecryptionError
from runtime.database import Database
from store.users import stages, users


class Profiles:
    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        purposes: Mapping[str, Purpose | None],
        clv_expected_years: Decimal,
    ) -> None:
        """``purposes`` has the purpose of each lifecycle workflow; others know the core attributes alone."""
        self._database = database
        self._cipher = cipher
        self._purposes = purposes
        self._clv_expected_years = clv_expected_years

    @activity.defn(name="profiles.set_stage")
    async def set_stage(self, change: StageChange) -> StageChanged:
        """Move the user to a lifecycle stage, unless the stage is pinned, and record the change as an event.

        A repeated call changes nothing: the stage and the event commit together.
        """
        async with self._database.transaction() as connection:
            user_id = change.step_context.user_id
            changed = await stages.set_by_workflow(connection, self._cipher, user_id, change.stage)
        return StageChanged(stage=change.stage, changed=changed)

    @activity.defn(name="profiles.known")
    async def known(self, question: ProfileQuestion) -> KnownProfile:
        """The attributes that a workflow may know now. One statement reads them and the consents.

        Fails for good if the user is unknown or erased, or if the profile is damaged.
        """
        try:
            async with self._database.connection() as connection:
                stored = await users.find(connection, self._cipher, question.user_id)
        except (UserNotFoundError, UserErasedError, DecryptionError) as error:
            raise ApplicationError(
                "the profile can't be read", type=type(error).__name__, non_retryable=True
            ) from None
        purpose = self._purposes.get(question.workflow_id)
        return known_profile(stored.profile, stored.activity, purpose, datetime.now(UTC), self._clv_expected_years)


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
