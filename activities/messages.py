"""Messages to customers: the intent first, then the effect, once.

Argument, by the line at which the process dies (the message's status in brackets is what is stored then):

1. before the intent commits [none]: nothing happened.
2. after it, while connecting or naming the recipient [pending]: the server has nothing; the next attempt
   sends.
3. after ``about_to`` commits [sending]: the message may be gone or not. The next attempt doesn't send it
   again but records it as ``unconfirmed``; with ``PERENNIAL_SMTP_UNCONFIRMED=resend`` it does, under the
   same Message-ID, for servers that drop repetitions.
4. after ``sent`` commits [sent]: the next attempt reads it back.

A refusal or failure that the server has answered for is known, and puts the message back to ``pending``.
"""

from __future__ import annotations

import asyncio

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.templates import template
from activities.transport import Envelope, HandoverUncertain, MessageRefused, Transport
from models.messages.execution import CleanedUp, CleanUp, Delivery, Message
from models.vocabulary import MessageStatus
from privacy.sealing import Sealer
from runtime.database import UNREACHABLE, Database
from store import messages

PATIENCE_SECONDS = 30.0
"""How long to wait for Postgres while a message is on the wire; below the step's time-out."""


class Messages:
    """Sends messages through the outbox table and, where one is configured, a transport."""

    def __init__(
        self, database: Database, sealer: Sealer, transport: Transport | None, *, resend_unconfirmed: bool
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._transport = transport
        self._resend_unconfirmed = resend_unconfirmed

    @activity.defn(name="messages.send")
    async def send(self, message: Message) -> Delivery:
        """Send a message to the step's user; returns what became of it.

        The recipient's address is read now, just in time, and is the same at every attempt of this step.
        """
        text = template(message.template)
        async with self._database.transaction() as connection:
            intent = await messages.intend(
                connection, self._sealer, message.step_context, message.template, text.render
            )
        if intent.status is MessageStatus.PENDING or self._may_resend(intent.status):
            return await self._transmit(intent)
        if intent.status is MessageStatus.SENDING:
            return await self._settle(intent, MessageStatus.UNCONFIRMED)
        return Delivery(message_id=intent.message_id, status=intent.status)

    @activity.defn(name="messages.withdraw")
    async def withdraw(self, clean_up: CleanUp) -> CleanedUp:
        """Withdraw what a cancelled instance has intended but not handed over."""
        async with self._database.transaction() as connection:
            count = await messages.withdraw(connection, clean_up.step_context.instance_id)
        return CleanedUp(messages_withdrawn=count)

    def _may_resend(self, status: MessageStatus) -> bool:
        return status is MessageStatus.SENDING and self._resend_unconfirmed

    async def _transmit(self, intent: messages.Intent) -> Delivery:
        if self._transport is None:
            return await self._settle(intent, MessageStatus.OUTBOX)

        async def about_to() -> None:
            if not await self._write(intent, MessageStatus.SENDING):
                raise _WithdrawnError

        try:
            await self._transport.hand_over(
                Envelope(intent.message_id, intent.recipient, intent.subject, intent.body), about_to
            )
        except _WithdrawnError:
            return Delivery(message_id=intent.message_id, status=MessageStatus.WITHDRAWN)
        except HandoverUncertain:
            if self._resend_unconfirmed:
                raise
            return await self._settle(intent, MessageStatus.UNCONFIRMED)
        except MessageRefused as error:
            await self._settle(intent, MessageStatus.REFUSED)
            raise ApplicationError(str(error), type="MessageRefused", non_retryable=True) from error
        except Exception:
            await self._settle(intent, MessageStatus.PENDING)
            raise
        return await self._settle(intent, MessageStatus.SENT)

    async def _settle(self, intent: messages.Intent, status: MessageStatus) -> Delivery:
        await self._write(intent, status)
        return Delivery(message_id=intent.message_id, status=status)

    async def _write(self, intent: messages.Intent, status: MessageStatus) -> bool:
        """Write a status, patiently: what is known of a message on the wire must not be lost because
        Postgres is being restarted at that moment. Says whether the message could take that status."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                async with self._database.transaction() as connection:
                    return await messages.settle(connection, intent.message_id, status)
            except UNREACHABLE:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.2)


class _WithdrawnError(Exception):
    """The instance was cancelled between the intent and the hand-over."""
