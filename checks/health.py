"""The health of a running process: whether Postgres and Temporal answer, and the reasons why it is degraded.

Any number of requests share one look, which holds for :data:`FRESH_SECONDS`. So a flood of probes costs a look a
second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client

from checks import postgres, progress, temporal
from checks.clocks import NOTED_SKEW_SECONDS, too_far_apart
from checks.lag import LogState, log_behind, log_state, rollups_behind
from checks.start import runtime_needs
from checks.unmet import Unmet
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from runtime.provisioning import in_namespace
from runtime.settings import Settings
from store.connection import Connection

logger = logging.getLogger("perennial.health")

FRESH_SECONDS = 1.0
ANSWER_SECONDS = 1.0
"""A dependency that takes longer to answer is unavailable."""
_LOOK_SECONDS = 2.0
GRACE_SECONDS = 15.0
"""A missing worker is no reason before this process has run so long: both may have been started at once."""
_TOO_SLOW = Unmet("checks_too_slow", f"The checks of Postgres or Temporal took longer than {_LOOK_SECONDS:.0f} s.")


@dataclass(frozen=True)
class Report:
    postgres: bool
    temporal: bool
    reasons: tuple[Unmet, ...]
    log: LogState | None = None
    """None if Postgres doesn't answer."""


class Health:
    """One for each process."""

    def __init__(self, settings: Settings, database: Database, cipher: Cipher, client: Client | None) -> None:
        self._settings = settings
        self._database = database
        self._cipher = cipher
        self._client = client
        self._began = time.monotonic()
        self._looking = asyncio.Lock()
        self._looked_at = 0.0
        self._report: Report | None = None
        self._log: LogState | None = None

    async def report(self) -> Report:
        """The last look, if it is fresh; a new one otherwise."""
        async with self._looking:
            if self._report is None or time.monotonic() - self._looked_at > FRESH_SECONDS:
                before = self._report
                self._report = await self._look()
                self._looked_at = time.monotonic()
                _log_changes(before, self._report)
            return self._report

    async def _look(self) -> Report:
        self._log = None
        (has_postgres, data), (has_temporal, work) = await asyncio.gather(
            self._ask_postgres(), self._ask_temporal()
        )
        reasons = dict.fromkeys([*data, *work])  # without repetitions, in their order
        return Report(has_postgres, has_temporal, tuple(reasons), self._log)

    async def _ask_postgres(self) -> tuple[bool, list[Unmet]]:
        answers = False
        with suppress(TimeoutError, *UNREACHABLE):
            async with asyncio.timeout(ANSWER_SECONDS) as limit, self._database.connection() as connection:
                answers = bool(await connection.fetchval("SELECT true"))
                limit.reschedule(asyncio.get_running_loop().time() + _LOOK_SECONDS)
                return True, await self._data_reasons(connection)
        return answers, [_TOO_SLOW] if answers else []

    async def _data_reasons(self, connection: Connection) -> list[Unmet]:
        unmet = await runtime_needs(connection)
        unmet += too_far_apart(await postgres.skew(connection), "Postgres", NOTED_SKEW_SECONDS)
        if unmet:
            return unmet  # the statements below need the schema of this version
        self._log = await log_state(connection)
        found = [
            log_behind(self._log),
            rollups_behind(self._log),
            await progress.projector(connection),
            await progress.outbox(connection),
            await progress.redactions(connection),
            await progress.key_ring(connection, self._cipher),
            await progress.partitions_ahead(connection),
            await progress.audit(connection),
        ]
        return [each for each in found if each is not None]

    async def _ask_temporal(self) -> tuple[bool, list[Unmet]]:
        if self._client is None:
            return False, []
        answers = False
        with suppress(*temporal.AWAY):
            async with asyncio.timeout(ANSWER_SECONDS) as limit:
                answers = await self._client.service_client.check_health(timeout=timedelta(seconds=ANSWER_SECONDS))
                limit.reschedule(asyncio.get_running_loop().time() + _LOOK_SECONDS)
                return answers, await self._work_reasons(self._client)
        return answers, [_TOO_SLOW] if answers else []

    async def _work_reasons(self, client: Client) -> list[Unmet]:
        if unmet := [*await temporal.server(client), *await temporal.namespace(client)]:
            return unmet
        if time.monotonic() - self._began < GRACE_SECONDS:
            return []
        system = in_namespace(client, self._settings.system_namespace)
        found = await asyncio.gather(progress.loops(system), progress.pollers(client, self._settings.task_queue))
        return [each for each in found if each is not None][:1]


def _log_changes(before: Report | None, now: Report) -> None:
    """Log each reason once, when it appears."""
    known = {each.code for each in before.reasons} if before else set()
    for each in now.reasons:
        if each.code not in known:
            logger.warning("degraded: %s", each.sentence, extra={"reason": each.code})
