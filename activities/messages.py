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

Consent to the purpose of the message's workflow is read twice: with the intent, so that a mail server isn't even
told of the address; and, what counts, in the transaction of ``about_to``, behind the lock that a withdrawal takes
(:func:`store.messages.release`). A message whose person doesn't consent then is ``suppressed``, and stays so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.templates import template
from activities.transport import Envelope, HandoverUncertain, MessageRefused, Transport
from models.messages.execution import CleanedUp, CleanUp, Delivery, Message
from models.vocabulary import MessageStatus, Purpose
from privacy.sealing import Sealer
from runtime.database import UNREACHABLE, Database
from store import messages
from store.connection import Connection

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long to wait for Postgres while a message is on the wire; below the step's time-out."""


class Messages:
    """Sends messages through the outbox table and, where one is configured, a transport."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        transport: Transport | None,
        purposes: Mapping[str, Purpose | None],
        *,
        resend_unconfirmed: bool,
    ) -> None:
        """``purposes`` has the purpose of each lifecycle workflow; one that isn't there counts as marketing."""
        self._database = database
        self._sealer = sealer
        self._transport = transport
        self._purposes = purposes
        self._resend_unconfirmed = resend_unconfirmed

    @activity.defn(name="messages.send")
    async def send(self, message: Message) -> Delivery:
        """Send a message to the step's user; returns what became of it.

        The recipient's address is read now, just in time, and is the same at every attempt of this step.
        """
        text = template(message.template)
        context = message.step_context
        purpose = self._purposes.get(context.workflow_id, Purpose.MARKETING)
        async with self._database.transaction() as connection:
            intent = await messages.intend(connection, self._sealer, context, message.template, text.render)
            permitted = await messages.permitted(connection, context.user_id, purpose)
        if intent.status is MessageStatus.PENDING and not permitted:
            return await self._settle(intent, MessageStatus.SUPPRESSED)
        if intent.status is MessageStatus.PENDING or self._may_resend(intent.status):
            return await self._transmit(intent, context.user_id, purpose)
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

    async def _transmit(self, intent: messages.Intent, user_id: str, purpose: Purpose | None) -> Delivery:
        async def release(to: Literal[MessageStatus.SENDING, MessageStatus.OUTBOX]) -> MessageStatus:
            released = await self._patiently(
                lambda connection: messages.release(connection, intent.message_id, user_id, purpose, to)
            )
            return released or MessageStatus.WITHDRAWN

        if self._transport is None:
            return Delivery(message_id=intent.message_id, status=await release(MessageStatus.OUTBOX))

        async def about_to() -> None:
            status = await release(MessageStatus.SENDING)
            if status is not MessageStatus.SENDING:
                raise _HeldBackError(status)

        try:
            await self._transport.hand_over(
                Envelope(intent.message_id, intent.recipient, intent.subject, intent.body), about_to
            )
        except _HeldBackError as held_back:
            return Delivery(message_id=intent.message_id, status=held_back.status)
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
        await self._patiently(lambda connection: messages.settle(connection, intent.message_id, status))
        return Delivery(message_id=intent.message_id, status=status)

    async def _patiently(self, write: Callable[[Connection], Awaitable[T]]) -> T:
        """Write a status, patiently: what is known of a message on the wire must not be lost because
        Postgres is being restarted at that moment."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                async with self._database.transaction() as connection:
                    return await write(connection)
            except UNREACHABLE:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.2)


class _HeldBackError(Exception):
    """Between the intent and the hand-over the instance was cancelled, or the consent withdrawn."""

    def __init__(self, status: MessageStatus) -> None:
        super().__init__(status)
        self.status = status
