"""Taking what people have forbidden out of the events that were stored before they did.

The list is looked at every half second, so a refusal is carried out within seconds of its answer; who has very
many events takes turns with the others, page by page. By the line at which the process, or Postgres, dies, each
page being one transaction (:mod:`store.events.events.redactions`):

1. before its commit: events, position and audit row are as they were; whoever takes over takes the page again.
2. during the commit, where the answer doesn't come: all of them are changed, or none.
3. after it: the position is behind the page. A commit that the disk hadn't got yet when Postgres crashed is
   forgotten whole, and the page is taken again.

The refusal itself is on the list from the commit that made the preference false, which waits for the disk; it
leaves the list in the transaction of its last page. Events that have lost something already lose nothing more, so
a page that is taken twice changes nothing the second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client

from activities.heartbeats import heartbeats
from activities.system import ensure_running
from models.temporal.redaction import REDACTION, REDACTION_WORKFLOW_ID
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from store.events import redactions
from store.events.redactions import EventsHeldError, OvertakenError, Refusal

logger = logging.getLogger("perennial.refusals")

IDLE_SECONDS = 0.5
"""How soon the list is looked at again when nobody was on it."""
AT_ONCE = 20
"""How many people a look at the list finds; each has one page before the next look."""
PACE = 1.0
"""How long it rests after a page, in times of what the page took: others have the disk and the loop as well."""
HELD_SECONDS = 0.05
"""How soon a page is read again of which somebody held events."""
AFTER_A_FAILURE = timedelta(seconds=30)
TURN_SECONDS = 20 * 60.0
"""How long an activity carries refusals out before it lets the workflow continue as new."""


class Refusals:
    """Carries refusals out until its activity is cancelled."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    @activity.defn(name="refusals.carry_out")
    async def carry_out(self) -> None:
        """Carry out what is on the list, and look again, until the turn is over or the worker stops."""
        over = asyncio.get_running_loop().time() + TURN_SECONDS
        async with heartbeats():
            await self.carry_on(
                lambda: asyncio.get_running_loop().time() < over and not activity.is_worker_shutdown()
            )

    async def carry_on(self, go_on: Callable[[], bool]) -> None:
        """The loop of :meth:`carry_out`."""
        while go_on():
            found = await self._due()
            for refusal in found:
                if not go_on():
                    return
                await self._take_page(refusal)
            if not found:
                await asyncio.sleep(IDLE_SECONDS)

    async def _due(self) -> list[Refusal]:
        try:
            async with self._database.connection() as connection:
                return await redactions.due(connection, AT_ONCE)
        except UNREACHABLE:
            return []

    async def _take_page(self, refusal: Refusal) -> None:
        """Take one page, and rest."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        rest = 0.0
        try:
            async with self._database.transaction() as connection:
                await redactions.take_page(connection, self._cipher, refusal)
        except OvertakenError:
            logger.info("a refusal was gone on with, or asked anew")
        except EventsHeldError:
            rest = HELD_SECONDS
        except UNREACHABLE:
            logger.warning("refusals wait for Postgres")
            rest = IDLE_SECONDS
        except Exception as error:
            logger.exception("a refusal can't be carried out", extra={"error_type": type(error).__name__})
            await self._postpone(refusal)
        await asyncio.sleep(max(rest, (loop.time() - began) * PACE))

    async def _postpone(self, refusal: Refusal) -> None:
        """Whatever stands in the way of one refusal holds up no other."""
        with contextlib.suppress(*UNREACHABLE):
            async with self._database.connection() as connection:
                await redactions.postpone(connection, refusal, AFTER_A_FAILURE)


async def start_redaction(client: Client, task_queue: str) -> None:
    """Make sure that refusals have their workflow on this task queue."""
    await ensure_running(
        client,
        task_queue,
        REDACTION,
        workflow_id=REDACTION_WORKFLOW_ID,
        summary="Takes refused attributes out of stored events",
    )
