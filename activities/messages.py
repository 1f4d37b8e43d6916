"""Activities that send messages to customers: they commit the intent first, then send once.

If the worker dies (the stored status is in brackets):

1. before the intent commits [none]: nothing happened.
2. after it, while the worker connects or names the recipient [pending]: the server has no message; the next
   attempt sends it.
3. after ``about_to`` commits [sending]: the message may have left. The next attempt does not send it again and
   records it as ``unconfirmed``. A message endpoint drops repetitions, so it gets the message again, under the
   same id. With ``PERENNIAL_SMTP_UNCONFIRMED=resend`` a mail server gets it again too.
4. after ``sent`` commits [sent]: the next attempt reads it back.

An answer of the server is a known outcome. A permanent rejection makes the message ``refused``; another failure
makes it ``pending`` again. It stays ``sending`` if an earlier attempt may have handed it over: this failure proves
nothing about that attempt. Without an answer, 3 applies.

The worker checks consent for the workflow's purpose and the frequency cap twice. The first check, with the intent,
keeps the address from the mail server. The second check decides. It is in the transaction of ``about_to``, under
the locks that a withdrawal takes (:func:`store.messages.send_gate.authorize`). A suppressed message stays
``suppressed``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from delivery.templates import MessageTemplate
from delivery.transport import Envelope, HandoverUncertainError, MessageRejectedError, Transport
from models.temporal.execution import CleanedUp, CleanUp, Delivery, Message
from models.vocabulary import Channel, MessageStatus, Purpose, Suppression
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from store.connection import Connection
from store.messages import messages, send_gate
from store.messages.send_gate import FrequencyCap, MessageWithdrawnError

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""The time to wait for Postgres while a transport has a message; below the step's time-out."""


class Messages:
    """Sends messages by the transport of their channel. Without a transport, a message ends as `outbox`."""

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        transports: Mapping[Channel, Transport],
        purposes: Mapping[str, Purpose | None],
        *,
        resend_unconfirmed: bool,
        cap: FrequencyCap | None,
        templates: Mapping[str, MessageTemplate],
    ) -> None:
        """``purposes`` has the purpose of each lifecycle workflow; the default is marketing."""
        self._database = database
        self._cipher = cipher
        self._transports = transports
        self._purposes = purposes
        self._resend_unconfirmed = resend_unconfirmed
        self._cap = cap
        self._templates = templates

    @activity.defn(name="messages.send")
    async def send(self, message: Message) -> Delivery:
        """Send a message to the step's user. A suppressed message is no failure.

        The first attempt reads the recipient's address; later attempts of the step use the same.
        """
        text = self._templates.get(message.template)
        if text is None:
            raise ApplicationError(
                f"there is no message template '{message.template}'", type="UnknownTemplate", non_retryable=True
            )
        user_id = message.step_context.user_id
        purpose = self._purposes.get(message.step_context.workflow_id, Purpose.MARKETING)
        async with self._database.transaction() as connection:
            intent = await messages.intend(connection, self._cipher, message, purpose, text.render)
            if intent.status is MessageStatus.PENDING:
                # Without this check a mail server would get the address of a message that the gate suppresses.
                reason = await send_gate.suppression_reason(connection, intent, user_id, self._cap)
                if reason and await messages.change_status(
                    connection, intent.message_id, MessageStatus.SUPPRESSED, reason=reason
                ):
                    return _delivery(intent, MessageStatus.SUPPRESSED, reason)
        transport = self._transports.get(message.channel)
        if intent.status is MessageStatus.PENDING or self._may_resend(intent.status, transport):
            return await self._transmit(intent, transport, message)
        if intent.status is MessageStatus.SENDING:
            return await self._record(intent, MessageStatus.UNCONFIRMED)
        return _delivery(intent, intent.status, intent.reason)

    @activity.defn(name="messages.withdraw")
    async def withdraw(self, clean_up: CleanUp) -> CleanedUp:
        """Withdraw the pending messages of a cancelled instance."""
        async with self._database.transaction() as connection:
            count = await messages.withdraw(connection, clean_up.step_context.instance_id)
        return CleanedUp(messages_withdrawn=count)

    def _may_resend(self, status: MessageStatus, transport: Transport | None) -> bool:
        if status is not MessageStatus.SENDING:
            return False
        return self._resend_unconfirmed or (transport is not None and transport.drops_repetitions)

    async def _transmit(self, intent: messages.Intent, transport: Transport | None, message: Message) -> Delivery:
        async def about_to(status: MessageStatus = MessageStatus.SENDING) -> None:
            if reason := await self._authorize(intent, message.step_context.user_id, status):
                # It ends ``hand_over`` before the transport sends anything.
                raise _SuppressedError(reason)

        try:
            if transport is None:
                await about_to(MessageStatus.OUTBOX)
                return _delivery(intent, MessageStatus.OUTBOX)
            await transport.hand_over(
                Envelope(intent.message_id, intent.recipient, intent.subject, intent.body, message.template),
                about_to,
            )
        except _SuppressedError as error:
            return _delivery(intent, send_gate.suppressed_status(intent), error.reason)
        except MessageWithdrawnError:
            return _delivery(intent, MessageStatus.WITHDRAWN)
        except HandoverUncertainError:
            if self._may_resend(MessageStatus.SENDING, transport):
                raise
            return await self._record(intent, MessageStatus.UNCONFIRMED)
        except MessageRejectedError as error:
            await self._record(intent, MessageStatus.REFUSED)
            raise ApplicationError(str(error), type="MessageRejectedError", non_retryable=True) from error
        except Exception:
            await self._put_back(intent)
            raise
        return await self._record(intent, MessageStatus.SENT)

    async def _put_back(self, intent: messages.Intent) -> None:
        """Make a message `pending` again after an attempt that certainly sent nothing."""
        if intent.status is MessageStatus.PENDING:  # else an earlier attempt may have handed it over
            await self._record(intent, MessageStatus.PENDING)

    async def _record(self, intent: messages.Intent, status: MessageStatus) -> Delivery:
        await self._in_transaction(
            lambda connection: messages.change_status(connection, intent.message_id, status)
        )
        return _delivery(intent, status)

    async def _authorize(self, intent: messages.Intent, user_id: str, status: MessageStatus) -> Suppression | None:
        return await self._in_transaction(
            lambda connection: send_gate.authorize(connection, intent, user_id, status, self._cap)
        )

    async def _in_transaction(self, write: Callable[[Connection], Awaitable[T]]) -> T:
        """Write in a transaction, and retry while Postgres is away: a restart must not lose a known outcome."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                async with self._database.transaction() as connection:
                    return await write(connection)
            except UNREACHABLE:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.2)


def _delivery(intent: messages.Intent, status: MessageStatus, reason: Suppression | None = None) -> Delivery:
    return Delivery(message_id=intent.message_id, status=status, reason=reason)


class _SuppressedError(Exception):
    def __init__(self, reason: Suppression) -> None:
        super().__init__(reason.value)
        self.reason = reason
