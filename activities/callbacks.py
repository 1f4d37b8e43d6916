"""Telling whoever executed an instance that it has finished: signed, tried for a day, at addresses that may be.

A try that dies after the other side has taken it is repeated under the same `webhook-id`, by which that side knows
it. What each try gave is written down after it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from delivery.http import AddressForbiddenError, Answer, Outbound, UnreachableError
from models.temporal.system import CallbackDue
from models.vocabulary import Role
from privacy.encryption import Cipher
from privacy.signatures import signed_headers
from runtime.database import UNREACHABLE, Database
from runtime.settings import Settings
from store.instances import callbacks, instances
from store.instances.callbacks import Callback, CallbackStatus
from store.instances.views import TemporalPlace, instance_view

PAUSES = tuple(
    timedelta(seconds=seconds) for seconds in (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 6 * 3600)
)
"""Between tries, so that the last is made a day after the first; but for it, as Standard Webhooks has them."""
_GONE = 410
_READERS = frozenset({Role.ADMIN, Role.OPERATOR, Role.ANALYST})
"""Who may read an instance at all."""
_LONGEST_WAIT = timedelta(hours=12)
_JITTER = 0.05
_STORE_AWAY = timedelta(seconds=1)

logger = logging.getLogger("perennial.callbacks")


class Callbacks:
    """Sends callbacks."""

    def __init__(
        self, database: Database, cipher: Cipher, settings: Settings, known: Mapping[str, Collection[str]]
    ) -> None:
        """``known`` has, by workflow, the words that its own schema names: they are no person's."""
        self._known = known
        self._database = database
        self._cipher = cipher
        self._place = TemporalPlace(settings.temporal_ui_url, settings.temporal_namespace)
        self._outbound = Outbound(loopback=settings.environment == "embedded")

    @activity.defn(name="callbacks.send")
    async def send(self, due: CallbackDue) -> None:
        """Tell of one end. Nothing is told where the person has been erased since, or a replay goes on; nor where
        the key that executed the instance has been revoked, or may not read it, as is looked up at each try."""
        try:
            await self._send(due)
        except UNREACHABLE as error:
            # No try: soon again, however long it lasts, and the schedule stays where it is.
            raise ApplicationError(
                "Postgres can't be reached", type="StoreUnavailableError", next_retry_delay=_STORE_AWAY
            ) from error

    async def _send(self, due: CallbackDue) -> None:
        async with self._database.connection() as connection:
            callback = await callbacks.find(connection, self._cipher, due.instance_id)
            instance = await instances.find_any(connection, self._cipher, due.instance_id)
        if callback is None or instance is None or instance.end_time is None:
            return
        if len(instance.replaced_runs) != due.ending:
            return
        if callback.role not in _READERS:
            await self._withhold(due, callback)
            return
        known = self._known.get(instance.workflow_id, ())
        body = instance_view(callback.role, instance, self._place, known).model_dump_json().encode()
        answer = await self._try(due, callback, body)
        status = _what_became(answer)
        async with self._database.connection() as connection:
            tries = await callbacks.tried(connection, due, status, answer.status if answer else None)
        if status == "waiting" and tries is not None:
            raise _again(tries, answer)

    @activity.defn(name="callbacks.give_up")
    async def give_up(self, due: CallbackDue) -> None:
        """Write that a callback is tried no more."""
        async with self._database.connection() as connection:
            await callbacks.give_up(connection, due)

    async def _withhold(self, due: CallbackDue, callback: Callback) -> None:
        logger.warning(
            "a callback is not sent: its key may not read the instance any more",
            extra={"instance_id": due.instance_id, "key_id": callback.key_id},
        )
        await self.give_up(due)

    async def _try(self, due: CallbackDue, callback: Callback, body: bytes) -> Answer | None:
        signed = signed_headers(callback.secret, due.message_id, datetime.now(UTC), body)
        headers = {"content-type": "application/json", "user-agent": "Perennial", **signed}
        try:
            return await self._outbound.post(callback.url, body, headers)
        except (AddressForbiddenError, UnreachableError):
            return None


def _what_became(answer: Answer | None) -> CallbackStatus:
    if answer is not None and answer.taken:
        return "delivered"
    return "gone" if answer is not None and answer.status == _GONE else "waiting"


def _again(tries: int, answer: Answer | None) -> ApplicationError:
    """What makes Temporal try again after a while, or no more. A `Retry-After` makes the while longer.

    ``tries`` are those that were written down: Temporal's own count goes up as well when Postgres is away or a
    worker is killed.
    """
    if tries > len(PAUSES):
        return ApplicationError("no try was taken", type="CallbackNotTaken", non_retryable=True)
    pause = PAUSES[tries - 1] * random.uniform(1, 1 + _JITTER)  # noqa: S311 - spreads load
    if answer is not None and answer.retry_after is not None:
        pause = max(pause, min(timedelta(seconds=answer.retry_after), _LONGEST_WAIT))
    return ApplicationError("the callback was not taken", type="CallbackNotTaken", next_retry_delay=pause)
