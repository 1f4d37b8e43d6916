"""Removes attributes from stored events after a person has opted out of them.

The worker polls the redactions twice a second, so it begins within a second of the opt-out's answer. It takes
people in turn, page by page, so a person with many events delays no other. Each page is one transaction
(:mod:`store.events.redactions`). If the worker or Postgres dies:

1. before the page's commit: events, position and audit row are as before; the next worker repeats the page.
2. during the commit, so that no answer arrives: either all of them have changed or none.
3. after it: the position is past the page. If Postgres crashes before the commit is on disk, the whole commit is
   lost, and the page is repeated.

The transaction that makes the preference false inserts the redaction, and its commit waits for the disk. The
transaction of the last page deletes the redaction. A repeated page changes nothing, since its events no longer
have the attributes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta

from temporalio import activity

from activities.loops import turn
from models.rules.series import DIMENSION_VALUES
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from store.events import redactions
from store.events.redactions import EventsLockedError, PendingRedaction, StaleRedactionError

logger = logging.getLogger("perennial.redactions")

IDLE_SECONDS = 0.5
"""Time between polls while nothing is due."""
PEOPLE = 20
"""The most people that one poll finds; each gets one page before the next poll."""
REST_FACTOR = 1.0
"""The pause after a page, as a multiple of the page's duration. Other work uses disk and event loop meanwhile."""
LOCKED_SECONDS = 0.05
"""Time before a page with locked events is read again."""
AFTER_A_FAILURE = timedelta(seconds=30)


class Redactions:
    def __init__(self, database: Database, cipher: Cipher, dimension_values: int = DIMENSION_VALUES) -> None:
        self._database = database
        self._cipher = cipher
        self._dimension_values = dimension_values

    @activity.defn(name="redactions.apply")
    async def apply(self) -> None:
        """Apply redactions for a turn."""
        async with turn() as has_time:
            await self.apply_while(has_time)

    async def apply_while(self, has_time: Callable[[], bool]) -> None:
        while has_time():
            found = await self._due()
            for pending in found:
                if not has_time():
                    return
                await self._redact_page(pending)
            if not found:
                await asyncio.sleep(IDLE_SECONDS)

    async def _due(self) -> list[PendingRedaction]:
        try:
            async with self._database.connection() as connection:
                return await redactions.due(connection, PEOPLE)
        except UNREACHABLE:
            return []

    async def _redact_page(self, pending: PendingRedaction) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        rest = 0.0
        try:
            async with self._database.transaction() as connection:
                await redactions.redact_page(connection, self._cipher, pending, self._dimension_values)
        except StaleRedactionError:
            logger.info("another worker moved a redaction, or an opt-out reset it")
        except EventsLockedError:
            rest = LOCKED_SECONDS
        except UNREACHABLE:
            logger.warning("redactions wait for Postgres")
            rest = IDLE_SECONDS
        except Exception as error:
            logger.exception("a redaction failed", extra={"error_type": type(error).__name__})
            await self._postpone(pending)
        await asyncio.sleep(max(rest, (loop.time() - began) * REST_FACTOR))

    async def _postpone(self, pending: PendingRedaction) -> None:
        # Otherwise the failing redaction would be due first in every poll, and delay the others.
        with contextlib.suppress(*UNREACHABLE):
            async with self._database.connection() as connection:
                await redactions.postpone(connection, pending, AFTER_A_FAILURE)
