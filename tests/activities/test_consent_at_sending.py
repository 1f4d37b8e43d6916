"""Consent to a message's purpose at the time when the message is about to leave."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import aiosmtplib
import pytest

from activities.messages import Messages
from delivery.smtp import SmtpTransport
from delivery.templates import TEMPLATES
from models.temporal.execution import Message, StepContext
from models.vocabulary import Channel, MessageStatus, Purpose, Suppression
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.connection import Connection
from store.consents import consents
from store.consents.consents import ConsentDecision
from store.messages import messages, send_gate
from store.messages.messages import Intent
from testing.mail import MailServer
from testing.people import Customer

PURPOSES: dict[str, Purpose | None] = {"win_back": Purpose.MARKETING, "invoices": None}
Sending = Callable[[Message], Awaitable[MessageStatus]]


def message(customer: Customer, workflow_id: str = "win_back") -> Message:
    context = StepContext(
        workflow_id=workflow_id,
        instance_id=uuid.uuid4().hex,
        user_id=customer.user_id,
        step="send_offer",
        position=1,
        max_attempts=3,
    )
    return Message(template="welcome", context=context)


async def consent(database: Database, customer: Customer, granted: bool) -> None:
    """As `PUT` and `DELETE /users/{id}/consents/marketing`, which answer when this has returned."""
    async with database.transaction() as connection:
        if granted:
            said = ConsentDecision(Purpose.MARKETING, True, "form", None, "consent")
            await consents.decide(connection, customer.user_id, said, actor="test")
        else:
            await consents.withdraw(connection, customer.user_id, Purpose.MARKETING, actor="test")


def sender(database: Database, cipher: Cipher, settings: Settings, *, resend: bool = False) -> Sending:
    activity = Messages(
        database,
        cipher,
        {Channel.EMAIL: SmtpTransport(settings)} if settings.smtp_url else {},
        PURPOSES,
        resend_unconfirmed=resend,
        cap=None,
        templates=TEMPLATES,
    )

    async def send(message: Message) -> MessageStatus:
        return (await activity.send(message)).status

    return send


async def intend(connection: Connection, cipher: Cipher, message: Message) -> Intent:
    purpose = PURPOSES[message.step_context.workflow_id]
    return await messages.intend(connection, cipher, message, purpose, lambda name: (name, name))


async def authorize(connection: Connection, intent: Intent, customer: Customer) -> Suppression | None:
    return await send_gate.authorize(connection, intent, customer.user_id, MessageStatus.SENDING, None)


@pytest.fixture
def send(database: Database, cipher: Cipher, worker_settings: Settings) -> Sending:
    return sender(database, cipher, worker_settings)


async def test_without_consent_the_mail_server_does_not_get_the_address(
    customer: Customer, send: Sending, mail: MailServer
) -> None:
    addresses: list[str] = []
    mail.on_recipient = addresses.append
    assert await send(message(customer)) is MessageStatus.SUPPRESSED
    assert (addresses, mail.received) == ([], [])


async def test_a_service_workflows_message_needs_no_consent(
    customer: Customer, send: Sending, mail: MailServer
) -> None:
    assert await send(message(customer, "invoices")) is MessageStatus.SENT
    assert len(mail.to(customer.email)) == 1


async def test_the_messages_of_an_unknown_workflow_need_consent_to_marketing(
    customer: Customer, send: Sending
) -> None:
    assert await send(message(customer, "of_another_version")) is MessageStatus.SUPPRESSED


async def test_with_consent_the_message_is_sent(
    customer: Customer, database: Database, send: Sending, mail: MailServer
) -> None:
    await consent(database, customer, granted=True)
    assert await send(message(customer)) is MessageStatus.SENT
    assert len(mail.to(customer.email)) == 1


async def test_a_withdrawal_between_two_attempts_suppresses_the_message(
    customer: Customer, database: Database, send: Sending, mail: MailServer
) -> None:
    await consent(database, customer, granted=True)
    offer = message(customer)
    mail.refuse_recipients = "450 busy"
    with pytest.raises(aiosmtplib.SMTPException):
        await send(offer)
    mail.refuse_recipients = None
    await consent(database, customer, granted=False)
    assert await send(offer) is MessageStatus.SUPPRESSED
    assert mail.received == []


async def test_a_withdrawal_while_the_mail_server_has_the_address_suppresses_the_message(
    customer: Customer, database: Database, send: Sending, mail: MailServer
) -> None:
    await consent(database, customer, granted=True)
    offer, has_address = message(customer), asyncio.Event()
    mail.on_recipient = lambda _: has_address.set()
    mail.hold_recipients = asyncio.Event()
    sending = asyncio.ensure_future(send(offer))
    await has_address.wait()
    await consent(database, customer, granted=False)
    mail.hold_recipients.set()
    assert await sending is MessageStatus.SUPPRESSED
    assert mail.received == []
    await consent(database, customer, granted=True)
    assert await send(offer) is MessageStatus.SUPPRESSED, "it stays so: the person had said no when it was due"


async def test_a_withdrawal_waits_for_the_send_gate_that_came_before_it(
    customer: Customer, database: Database, cipher: Cipher
) -> None:
    await consent(database, customer, granted=True)
    offer = message(customer)
    async with database.transaction() as connection:
        intent = await intend(connection, cipher, offer)
    async with database.transaction() as marking:
        assert await authorize(marking, intent, customer) is None
        withdrawal = asyncio.ensure_future(consent(database, customer, granted=False))
        await _waits_for_a_lock(database)
        assert not withdrawal.done()
    await withdrawal


async def _waits_for_a_lock(database: Database) -> None:
    async with asyncio.timeout(10), database.connection() as connection:
        while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.01)


async def test_a_send_gate_that_waited_for_a_withdrawal_sees_it(
    customer: Customer, database: Database, send: Sending, mail: MailServer
) -> None:
    await consent(database, customer, granted=True)
    async with database.transaction() as withdrawing:
        await consents.withdraw(withdrawing, customer.user_id, Purpose.MARKETING, actor="test")
        sending = asyncio.ensure_future(send(message(customer)))
        await _waits_for_a_lock(database)
    assert await sending is MessageStatus.SUPPRESSED
    assert mail.received == []


async def test_without_a_transport_a_message_needs_consent_too(
    customer: Customer, database: Database, cipher: Cipher, worker_settings: Settings
) -> None:
    send = sender(database, cipher, worker_settings.model_copy(update={"smtp_url": None}))
    assert await send(message(customer)) is MessageStatus.SUPPRESSED
    await consent(database, customer, granted=True)
    assert await send(message(customer)) is MessageStatus.OUTBOX


async def test_a_message_that_may_have_been_sent_is_not_sent_again_without_consent(
    customer: Customer, database: Database, cipher: Cipher, worker_settings: Settings, mail: MailServer
) -> None:
    send = sender(database, cipher, worker_settings, resend=True)
    await consent(database, customer, granted=True)
    offer = message(customer)
    async with database.transaction() as connection:
        intent = await intend(connection, cipher, offer)
        assert await authorize(connection, intent, customer) is None
    await consent(database, customer, granted=False)
    assert await send(offer) is MessageStatus.UNCONFIRMED
    assert mail.received == []


async def test_an_erased_user_gets_no_message_not_even_a_service_message(
    customer: Customer, database: Database, cipher: Cipher
) -> None:
    bill = message(customer, "invoices")
    async with database.transaction() as connection:
        intent = await intend(connection, cipher, bill)
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", customer.user_id)
        assert await authorize(connection, intent, customer) is Suppression.USER_ERASED
        status = await connection.fetchval("SELECT status FROM messages WHERE message_id = $1", intent.message_id)
    assert status == MessageStatus.SUPPRESSED
