"""Reports the end of an instance to its callback URL, signed, with retries for a day.

If the worker dies after the receiver has accepted an attempt, Temporal repeats the attempt. The `webhook-id` stays
the same, so the receiver can drop the repetition. The worker records an attempt's outcome after the attempt.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from delivery.http import AddressForbiddenError, Answer, Outbound, UnreachableError
from delivery.signatures import signed_headers
from models.schemas.workflows import FinishedInstance
from models.temporal.system import CallbackDue
from models.vocabulary import Role
from privacy.encryption import Cipher
from privacy.instance_views import UiLinks, instance_view
from runtime.database import UNREACHABLE, Database
from runtime.settings import Settings
from store.instances import callbacks, instances
from store.instances.callbacks import Callback, CallbackStatus

PAUSES = tuple(
    timedelta(seconds=seconds) for seconds in (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 6 * 3600)
)
"""The pauses between attempts. They are those of Standard Webhooks up to the last, which ends the attempts
after a day."""
_GONE = 410
_READERS = frozenset({Role.ADMIN, Role.OPERATOR, Role.ANALYST})
"""The roles that may read an instance."""
_JITTER = 0.05
_POSTGRES_PAUSE = timedelta(seconds=1)

logger = logging.getLogger("perennial.callbacks")


class Callbacks:
    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        settings: Settings,
        known: Mapping[str, Collection[str]],
        keys: Mapping[str, Sequence[str]],
    ) -> None:
        """``known``: for each workflow the words of its parameter schema, which identify no person; ``keys``: the
        names of its key's parameters."""
        self._known = known
        self._keys = keys
        self._database = database
        self._cipher = cipher
        self._links = UiLinks(settings.temporal_ui_url, settings.temporal_namespace)
        self._outbound = Outbound(loopback=settings.environment == "embedded")

    @activity.defn(name="callbacks.send")
    async def send(self, due: CallbackDue) -> None:
        """Send one callback. Each attempt checks again whether it may be sent.

        Nothing is sent after the person's erasure or during a replay. Nothing is sent if the key that executed the
        instance was revoked, or may not read it.
        """
        try:
            await self._send(due)
        except UNREACHABLE as error:
            # This is no attempt: the pauses between attempts stay as they are.
            raise ApplicationError(
                "Postgres can't be reached", type="StoreUnavailableError", next_retry_delay=_POSTGRES_PAUSE
            ) from error

    async def _send(self, due: CallbackDue) -> None:
        async with self._database.connection() as connection:
            callback = await callbacks.find(connection, self._cipher, due.instance_id)
            instance = await instances.find(connection, self._cipher, due.instance_id)
        if callback is None or instance is None or instance.end_time is None:
            return
        # A replay came after this end. The replay's end has its own callback.
        if len(instance.replaced_runs) != due.ending:
            return
        if callback.role not in _READERS:
            await self._withhold(due, callback)
            return
        known = self._known.get(instance.workflow_id, ())
        key = self._keys.get(instance.workflow_id, ())
        view = instance_view(callback.role, instance, self._links, known, key)
        finished = FinishedInstance(**vars(view), timestamp=instance.end_time, data=view)
        answer = await self._post(due, callback, finished.model_dump_json().encode())
        status = _status_after(answer)
        async with self._database.connection() as connection:
            attempts = await callbacks.record_attempt(connection, due, status, answer.status if answer else None)
        if status == "waiting" and attempts is not None:
            raise _retry(attempts, answer)

    @activity.defn(name="callbacks.give_up")
    async def give_up(self, due: CallbackDue) -> None:
        """Record that no further attempt is made."""
        async with self._database.connection() as connection:
            await callbacks.give_up(connection, due)

    async def _withhold(self, due: CallbackDue, callback: Callback) -> None:
        logger.warning(
            "a callback is not sent: its key may not read the instance any more",
            extra={"instance_id": due.instance_id, "key_id": callback.key_id},
        )
        await self.give_up(due)

    async def _post(self, due: CallbackDue, callback: Callback, body: bytes) -> Answer | None:
        """Return None without an answer."""
        signed = signed_headers(callback.secret, due.message_id, datetime.now(UTC), body)
        headers = {"content-type": "application/json", "user-agent": "Perennial", **signed}
        try:
            return await self._outbound.post(callback.url, body, headers)
        except (AddressForbiddenError, UnreachableError):
            return None


def _status_after(answer: Answer | None) -> CallbackStatus:
    if answer is not None and answer.taken:
        return "delivered"
    return "gone" if answer is not None and answer.status == _GONE else "waiting"


def _retry(attempts: int, answer: Answer | None) -> ApplicationError:
    """The error that makes Temporal retry after a pause, or stop. A `Retry-After` extends the pause up to
    :data:`delivery.http.LONGEST_WAIT`, and never shortens it.

    ``attempts`` is the recorded count: Postgres outages and killed workers raise Temporal's own count too.
    """
    if attempts > len(PAUSES):
        return ApplicationError("no attempt was accepted", type="CallbackNotTaken", non_retryable=True)
    pause = PAUSES[attempts - 1] * random.uniform(1, 1 + _JITTER)  # noqa: S311 - spreads load
    if answer is not None and answer.retry_after is not None:
        pause = max(pause, answer.retry_after)
    return ApplicationError("the callback was not accepted", type="CallbackNotTaken", next_retry_delay=pause)
