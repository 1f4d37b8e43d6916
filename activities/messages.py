"""Messages to customers: the intent first, then the effect, once.

Argument, by the line at which the process dies (the message's status in brackets is what is stored then):

1. before the intent commits [none]: nothing happened.
2. after it, while connecting or naming the recipient [pending]: the server has nothing; the next attempt
   sends.
3. after ``about_to`` commits [sending]: the message may be gone or not. The next attempt doesn't send it
   again but records it as ``unconfirmed``. Where the receiver drops repetitions it does, under the same id: a
   message endpoint does, and a mail server with ``PERENNIAL_SMTP_UNCONFIRMED=resend``.
4. after ``sent`` commits [sent]: the next attempt reads it back.

A refusal or failure that the server has answered for is known, and puts the message back to ``pending``; but not
one that an earlier attempt may have handed over: of that this attempt's failure says nothing. Without an answer
all is as in 3.

Consent to the purpose of the message's workflow, and the frequency cap, are looked at twice: with the intent, so
that a mail server isn't even told of the address; and, what counts, in the transaction of ``about_to``, behind the
lock that a withdrawal takes (:func:`store.messages.messages.send_gate.authorize`). A message that something speaks against then is
``suppressed``, and stays so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from delivery.smtp import Envelope, HandoverUncertainError, MessageRejectedError, Transport
from delivery.templates import MessageTemplate
from models.temporal.execution import CleanedUp, CleanUp, Delivery, Message
from models.vocabulary import Channel, MessageStatus, Purpose, Suppression
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from store.connection import Connection
from store.messages import messages, send_gate
from store.messages.send_gate import FrequencyCap, MessageWithdrawnError

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long to wait for Postgres while a message is on the wire; below the step's time-out."""


class Messages:
    """Sends messages through the outbox table and, where one is configured for their channel, a transport."""

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
        """``purposes`` has the purpose of each lifecycle workflow; one that isn't there counts as marketing."""
        self._database = database
        self._cipher = cipher
        self._transports = transports
        self._purposes = purposes
        self._resend_unconfirmed = resend_unconfirmed
        self._cap = cap
        self._templates = templates

    @activity.defn(name="messages.send")
    async def send(self, message: Message) -> Delivery:
        """Send a message to the step's user; returns what became of it.

        The recipient's address is read now, just in time, and is the same at every attempt of this step. Whether
        it may go is looked at last of all, see :mod:`store.messages.messages.send_gate`; one that may not is no failure.
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
            if intent.status is MessageStatus.PENDING:  # so that no mail server is told of the address in vain
                reason = await send_gate.objection(connection, intent, user_id, self._cap)
                if reason and await messages.settle(
                    connection, intent.message_id, MessageStatus.SUPPRESSED, reason=reason
                ):
                    return _delivery(intent, MessageStatus.SUPPRESSED, reason)
        transport = self._transports.get(message.channel)
        if intent.status is MessageStatus.PENDING or self._may_resend(intent.status, transport):
            return await self._transmit(intent, transport, message)
        if intent.status is MessageStatus.SENDING:
            return await self._settle(intent, MessageStatus.UNCONFIRMED)
        return _delivery(intent, intent.status, intent.reason)

    @activity.defn(name="messages.withdraw")
    async def withdraw(self, clean_up: CleanUp) -> CleanedUp:
        """Withdraw what a cancelled instance has intended but not handed over."""
        async with self._database.transaction() as connection:
            count = await messages.withdraw(connection, clean_up.step_context.instance_id)
        return CleanedUp(messages_withdrawn=count)

    def _may_resend(self, status: MessageStatus, transport: Transport | None) -> bool:
        if status is not MessageStatus.SENDING:
            return False
        return self._resend_unconfirmed or (transport is not None and transport.drops_repetitions)

    async def _transmit(self, intent: messages.Intent, transport: Transport | None, message: Message) -> Delivery:
        async def about_to(status: MessageStatus = MessageStatus.SENDING) -> None:
            if reason := await self._let_go(intent, message.step_context.user_id, status):
                raise _HeldBackError(reason)

        try:
            if transport is None:
                await about_to(MessageStatus.OUTBOX)
                return _delivery(intent, MessageStatus.OUTBOX)
            await transport.hand_over(
                Envelope(intent.message_id, intent.recipient, intent.subject, intent.body, message.template),
                about_to,
            )
        except _HeldBackError as error:
            return _delivery(intent, send_gate.held_back(intent), error.reason)
        except MessageWithdrawnError:
            return _delivery(intent, MessageStatus.WITHDRAWN)
        except HandoverUncertainError:
            if self._may_resend(MessageStatus.SENDING, transport):
                raise
            return await self._settle(intent, MessageStatus.UNCONFIRMED)
        except MessageRejectedError as error:
            await self._settle(intent, MessageStatus.REFUSED)
            raise ApplicationError(str(error), type="MessageRejectedError", non_retryable=True) from error
        except Exception:
            await self._put_back(intent)
            raise
        return await self._settle(intent, MessageStatus.SENT)

    async def _put_back(self, intent: messages.Intent) -> None:
        """After an attempt that certainly did nothing."""
        if intent.status is MessageStatus.PENDING:  # else an earlier one may have handed it over
            await self._settle(intent, MessageStatus.PENDING)

    async def _settle(self, intent: messages.Intent, status: MessageStatus) -> Delivery:
        await self._patiently(lambda connection: messages.settle(connection, intent.message_id, status))
        return _delivery(intent, status)

    async def _let_go(self, intent: messages.Intent, user_id: str, status: MessageStatus) -> Suppression | None:
        return await self._patiently(
            lambda connection: send_gate.authorize(connection, intent, user_id, status, self._cap)
        )

    async def _patiently(self, write: Callable[[Connection], Awaitable[T]]) -> T:
        """Write in a transaction, again and again: what is known of a message on the wire must not be lost
        because Postgres is being restarted at that moment."""
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


class _HeldBackError(Exception):
    """At the last moment something spoke against the message."""

    def __init__(self, reason: Suppression) -> None:
        super().__init__(reason.value)
        self.reason = reason
