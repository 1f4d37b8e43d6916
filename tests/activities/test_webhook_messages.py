"""A message endpoint that gets a message and gives no answer: the message is sent again under its id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from activities.messages import Messages
from delivery import webhook
from delivery.templates import TEMPLATES
from delivery.transport import HandoverUncertainError
from delivery.webhook import MessageNotAcceptedError, WebhookTransport
from models.temporal.execution import Message
from models.vocabulary import Channel, MessageStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.ports import free_port
from store.messages.send_gate import FrequencyCap
from testing.hooks import HookServer
from testing.people import Customer
from tests.activities.test_consent_at_sending import PURPOSES, consent, message


@pytest.fixture
async def endpoint() -> AsyncIterator[HookServer]:
    async with HookServer() as server:
        yield server


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.MARKETING)


def sender(database: Database, cipher: Cipher, url: str, cap: FrequencyCap | None = None) -> Messages:
    transports = {Channel.WEBHOOK: WebhookTransport(url, None)}
    return Messages(database, cipher, transports, PURPOSES, resend_unconfirmed=False, cap=cap, templates=TEMPLATES)


def push(customer: Customer) -> Message:
    return message(customer).model_copy(update={"channel": Channel.WEBHOOK})


async def stored(database: Database) -> str:
    async with database.connection() as connection:
        return str(await connection.fetchval("SELECT status FROM messages ORDER BY created_at LIMIT 1"))


@pytest.mark.parametrize("answer", ["", "502 Bad Gateway", "504 Gateway Timeout"])
async def test_after_a_broken_connection_the_message_stays_sending_and_is_sent_again_under_its_id(
    database: Database, cipher: Cipher, customer: Customer, endpoint: HookServer, answer: str
) -> None:
    sending, offer = sender(database, cipher, endpoint.url), push(customer)
    endpoint.answers = [answer]
    with pytest.raises(HandoverUncertainError):
        await sending.send(offer)
    assert await stored(database) == MessageStatus.SENDING
    assert (await sending.send(offer)).status is MessageStatus.SENT
    assert len(endpoint.received) == 2
    assert len({hook.headers["webhook-id"] for hook in endpoint.received}) == 1


async def test_after_a_timeout_the_message_stays_sending(
    database: Database, cipher: Cipher, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.2)
    over = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    with pytest.raises(HandoverUncertainError):
        await sender(database, cipher, url).send(push(customer))
    assert await stored(database) == MessageStatus.SENDING
    over.set()
    server.close()


async def test_a_withdrawal_after_a_broken_connection_leaves_the_message_unconfirmed(
    database: Database, cipher: Cipher, customer: Customer, endpoint: HookServer
) -> None:
    """Later attempts that certainly sent nothing don't change that: they say nothing about the first one."""
    offer = push(customer)
    endpoint.answers = ["", "503 Later"]
    for url, error in (
        (endpoint.url, HandoverUncertainError),
        (endpoint.url, MessageNotAcceptedError),
        (f"http://127.0.0.1:{free_port()}", httpx.ConnectError),
    ):
        with pytest.raises(error):
            await sender(database, cipher, url).send(offer)
        assert await stored(database) == MessageStatus.SENDING
    await consent(database, customer, granted=False)
    assert (await sender(database, cipher, endpoint.url).send(offer)).status is MessageStatus.UNCONFIRMED
    assert len(endpoint.received) == 2


async def test_the_cap_counts_messages_that_may_have_been_received_and_no_rejected_ones(
    database: Database, cipher: Cipher, customer: Customer, endpoint: HookServer
) -> None:
    cap = FrequencyCap(1, timedelta(days=7))
    closed = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(httpx.ConnectError):
        await sender(database, cipher, closed, cap).send(push(customer))
    assert await stored(database) == MessageStatus.PENDING
    endpoint.answers = [""]
    with pytest.raises(HandoverUncertainError):
        await sender(database, cipher, endpoint.url, cap).send(push(customer))
    assert (await sender(database, cipher, endpoint.url, cap).send(push(customer))).status is (
        MessageStatus.SUPPRESSED
    )
