"""The account's status at the time when a message is about to leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from models.rules.profile import change
from models.vocabulary import AccountStatus, MessageStatus, Purpose, Suppression
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.consents import locks
from store.users import users
from testing.mail import MailServer
from testing.people import Customer
from tests.activities.test_consent_at_sending import Sending, authorize, intend, message, sender
from tests.support.locks import until_blocked

SERVICE, MARKETING = "invoices", "win_back"


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.MARKETING)


@pytest.fixture
def send(database: Database, cipher: Cipher, worker_settings: Settings) -> Sending:
    return sender(database, cipher, worker_settings)


@asynccontextmanager
async def restricting(customer: Customer, cipher: Cipher, status: AccountStatus) -> AsyncIterator[None]:
    """Change the status as `PATCH /users/{id}` does. The API answers after the transaction has committed."""
    async with customer.database.transaction() as connection:
        locked = await users.lock_one(connection, cipher, customer.user_id)
        after = change(locked.users[customer.user_id].profile, {"account_status": status})
        await users.update_locked(connection, cipher, locked, [after], actor="test")
        yield


@asynccontextmanager
async def deleting(customer: Customer, cipher: Cipher, status: AccountStatus) -> AsyncIterator[None]:
    """Close the account as the projector does for `user.account_deletion`."""
    async with customer.database.transaction() as connection:
        await users.lock_rows(connection, [customer.user_id])
        await locks.share_and_exclude(connection, [customer.user_id], [customer.user_id])
        await users.close_accounts(connection, [customer.user_id])
        yield


async def restrict(customer: Customer, cipher: Cipher, status: AccountStatus) -> None:
    async with restricting(customer, cipher, status):
        pass


@pytest.mark.parametrize(
    ("status", "workflow_id", "expected", "reason"),
    [
        (AccountStatus.CLOSED, MARKETING, MessageStatus.SUPPRESSED, "account_closed"),
        (AccountStatus.CLOSED, SERVICE, MessageStatus.SUPPRESSED, "account_closed"),
        (AccountStatus.SUSPENDED, MARKETING, MessageStatus.SUPPRESSED, "account_suspended"),
        (AccountStatus.SUSPENDED, SERVICE, MessageStatus.SENT, None),
        (AccountStatus.PENDING, MARKETING, MessageStatus.SENT, None),
    ],
)
async def test_the_accounts_status_decides_which_messages_leave(
    customer: Customer,
    cipher: Cipher,
    send: Sending,
    mail: MailServer,
    status: AccountStatus,
    workflow_id: str,
    expected: MessageStatus,
    reason: str | None,
) -> None:
    addresses: list[str] = []
    mail.on_recipient = addresses.append
    await restrict(customer, cipher, status)
    assert await send(message(customer, workflow_id)) is expected
    async with customer.database.connection() as connection:
        assert await connection.fetchval("SELECT reason FROM messages") == reason
    assert len(addresses) == len(mail.received) == (expected is MessageStatus.SENT)


async def test_an_account_that_is_active_again_gets_messages(
    customer: Customer, cipher: Cipher, send: Sending, mail: MailServer
) -> None:
    await restrict(customer, cipher, AccountStatus.CLOSED)
    await restrict(customer, cipher, AccountStatus.ACTIVE)
    assert await send(message(customer)) is MessageStatus.SENT


@pytest.mark.parametrize("workflow_id", [MARKETING, SERVICE])
async def test_a_closing_while_the_mail_server_has_the_address_suppresses_the_message(
    customer: Customer, cipher: Cipher, send: Sending, mail: MailServer, workflow_id: str
) -> None:
    has_address = asyncio.Event()
    mail.on_recipient = lambda _: has_address.set()
    mail.hold_recipients = asyncio.Event()
    sending = asyncio.ensure_future(send(message(customer, workflow_id)))
    await has_address.wait()
    await restrict(customer, cipher, AccountStatus.CLOSED)
    mail.hold_recipients.set()
    assert await sending is MessageStatus.SUPPRESSED
    assert mail.received == []


@pytest.mark.parametrize("change_status", [restricting, deleting])
@pytest.mark.parametrize("workflow_id", [MARKETING, SERVICE])
async def test_a_send_gate_that_waited_for_a_closing_sees_it(
    customer: Customer,
    cipher: Cipher,
    send: Sending,
    mail: MailServer,
    workflow_id: str,
    change_status: Callable[..., AbstractAsyncContextManager[None]],
) -> None:
    async with change_status(customer, cipher, AccountStatus.CLOSED):
        sending = asyncio.ensure_future(send(message(customer, workflow_id)))
        await until_blocked(customer.database, 1)
    assert await sending is MessageStatus.SUPPRESSED
    assert mail.received == []


@pytest.mark.parametrize("status", [AccountStatus.CLOSED, AccountStatus.SUSPENDED])
async def test_a_closing_or_suspension_waits_for_the_send_gate_that_came_before_it(
    customer: Customer, database: Database, cipher: Cipher, status: AccountStatus
) -> None:
    offer = message(customer)
    async with database.transaction() as connection:
        intent = await intend(connection, cipher, offer)
    async with database.transaction() as marking:
        assert await authorize(marking, intent, customer) is None
        closing = asyncio.ensure_future(restrict(customer, cipher, status))
        await until_blocked(database, 1)
        assert not closing.done()
    await closing
    async with database.transaction() as connection:
        again = await intend(connection, cipher, message(customer))
        assert await authorize(connection, again, customer) is Suppression(f"account_{status}")
