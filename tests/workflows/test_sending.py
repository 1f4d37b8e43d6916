"""Messages when they leave: consent, the frequency cap, and the channels."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
import pytest
from temporalio.testing import WorkflowEnvironment

from models.temporal.execution import Message, StepContext
from models.vocabulary import MessageStatus, Purpose, Suppression
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import ConfigurationError, Settings
from store.messages import messages, send_gate
from store.messages.send_gate import FrequencyCap
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Runs
from tests.support.journeys import JOURNEYS
from worker import build_worker, transports

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.MARKETING)


@dataclass
class Endpoint:
    """A real HTTP server that keeps requests and sends the given answers."""

    answers: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append((headers, body))
        status = self.answers.pop(0) if self.answers else 204
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/messages"
    yield endpoint
    server.close()


@pytest.fixture
async def promoting(
    skipping: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    endpoint: Endpoint,
) -> AsyncIterator[Runs]:
    """A worker with a cap of two messages, and an endpoint for the channel `webhook`."""
    settings = worker_settings.model_copy(
        update={
            "message_cap": 2,
            "message_webhook_url": endpoint.url,
            "message_webhook_secret": "whsec_" + base64.b64encode(SECRET).decode(),
        }
    )
    async with build_worker(skipping.client, settings, database, cipher, lifecycles=JOURNEYS):
        yield Runs(skipping, database, cipher, settings.task_queue, JOURNEYS)


async def stored(runs: Runs, customer: Customer) -> list[tuple[str, str | None]]:
    async with runs.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT status, reason FROM messages WHERE user_id = $1 ORDER BY created_at", customer.user_id
        )
    return [(row["status"], row["reason"]) for row in rows]


async def test_without_consent_nothing_is_sent_and_the_journey_continues(
    promoting: Runs, customer: Customer, mail: MailServer, endpoint: Endpoint
) -> None:
    await customer.withdraw(Purpose.MARKETING)
    run = await promoting.start(customer.user_id, "promoter")
    assert (await run.handle.result()).reason == "done"
    assert mail.received == []
    assert endpoint.received == []
    assert await stored(promoting, customer) == [("suppressed", "consent_required")] * 2
    context = await promoting.context(run)
    assert context.results["send_welcome"]["reason"] == "consent_required"
    assert context.variables == {"sent": 0, "last": "consent_required"}


async def test_a_withdrawal_before_the_next_attempt_suppresses_the_message(
    promoting: Runs, customer: Customer, mail: MailServer
) -> None:
    async def refuse_once(message: object) -> str:
        await customer.withdraw(Purpose.MARKETING)
        return "451 later"

    mail.answer = refuse_once
    run = await promoting.start(customer.user_id, "promoter")
    await run.handle.result()
    assert mail.received == []
    assert (await stored(promoting, customer))[0] == ("suppressed", "consent_required")


async def test_no_message_leaves_to_a_person_who_was_erased_meanwhile(
    promoting: Runs, customer: Customer, mail: MailServer
) -> None:
    async def erase(message: object) -> str:
        async with promoting.database.connection() as connection:
            await connection.execute(
                "UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = $1", customer.user_id
            )
        return "451 later"

    mail.answer = erase
    run = await promoting.start(customer.user_id, "promoter")
    with pytest.raises(Exception, match="failed"):
        await run.handle.result()
    assert mail.received == []


async def test_no_more_messages_than_the_cap_allows(
    promoting: Runs, customer: Customer, mail: MailServer, endpoint: Endpoint
) -> None:
    run = await promoting.start(customer.user_id, "promoter", parameters={"rounds": 4})
    await run.handle.result()
    assert len(mail.to(customer.email)) == 2
    assert endpoint.received == []
    assert await stored(promoting, customer) == [("sent", None)] * 2 + [("suppressed", "frequency_cap")] * 3
    assert (await promoting.context(run)).variables["sent"] == 2


async def test_service_messages_need_no_consent_and_do_not_count(
    promoting: Runs, customer: Customer, mail: MailServer
) -> None:
    await customer.withdraw(Purpose.MARKETING)
    for _ in range(3):
        run = await promoting.start(customer.user_id, "buggy")
        with pytest.raises(Exception, match="failed"):
            await run.handle.result()
    assert len(mail.to(customer.email)) == 3


def context(customer: Customer, instance_id: str) -> Message:
    return Message(
        template="welcome",
        context=StepContext(
            workflow_id="promoter",
            instance_id=instance_id,
            user_id=customer.user_id,
            step="send",
            position=1,
            max_attempts=3,
        ),
    )


async def test_the_cap_is_exact_when_many_send_to_one_person_at_once(
    database: Database, cipher: Cipher, customer: Customer, database_url: str
) -> None:
    """From two pools of connections, as from two processes: Postgres alone decides."""
    other = Database(database_url, size=8, application="test")
    await other.open()
    cap = FrequencyCap(3, timedelta(days=7))

    async def send(pool: Database, number: int) -> Suppression | None:
        async with pool.transaction() as connection:
            intent = await messages.intend(
                connection, cipher, context(customer, f"i-{number}"), Purpose.MARKETING, lambda name: ("s", "b")
            )
        async with pool.transaction() as connection:
            return await send_gate.authorize(connection, intent, customer.user_id, MessageStatus.SENDING, cap)

    verdicts = await asyncio.gather(*(send((database, other)[number % 2], number) for number in range(16)))
    await other.close()
    assert verdicts.count(None) == 3
    assert verdicts.count(Suppression.FREQUENCY_CAP) == 13


async def test_no_message_leaves_after_a_withdrawal_was_answered(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    """A withdrawal and senders race: the second one sees the first."""

    async def prepared(number: int) -> messages.Intent:
        async with database.transaction() as connection:
            return await messages.intend(
                connection, cipher, context(customer, f"r-{number}"), Purpose.MARKETING, lambda name: ("s", "b")
            )

    intents = [await prepared(number) for number in range(12)]
    answered = asyncio.Event()
    late: list[Suppression | None] = []

    async def send(intent: messages.Intent) -> None:
        began_after = answered.is_set()
        async with database.transaction() as connection:
            verdict = await send_gate.authorize(connection, intent, customer.user_id, MessageStatus.SENDING, None)
        if began_after:
            late.append(verdict)

    async def withdraw() -> None:
        await customer.withdraw(Purpose.MARKETING)
        answered.set()

    await asyncio.gather(*(send(each) for each in intents[:6]), withdraw())
    await asyncio.gather(*(send(each) for each in intents[6:]))
    assert late.count(Suppression.CONSENT_REQUIRED) == len(late) >= 6


async def test_a_message_by_webhook_is_signed_and_keeps_its_id_in_each_attempt(
    promoting: Runs, customer: Customer, endpoint: Endpoint, mail: MailServer
) -> None:
    endpoint.answers = [503]
    run = await promoting.start(customer.user_id, "promoter", parameters={"rounds": 0})
    await run.handle.result()
    assert mail.received == []
    assert len(endpoint.received) == 2
    assert len({headers["webhook-id"] for headers, _ in endpoint.received}) == 1
    headers, body = endpoint.received[1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    data: dict[str, Any] = orjson.loads(body)["data"]
    assert data["user_id"] == customer.user_id
    assert data["message_id"] == headers["webhook-id"]
    assert customer.email.encode() not in body
    assert (await promoting.context(run)).results["push"]["status"] == "sent"


async def test_an_endpoint_that_answers_400_fails_the_step(
    promoting: Runs, customer: Customer, endpoint: Endpoint
) -> None:
    endpoint.answers = [400]
    run = await promoting.start(customer.user_id, "promoter", parameters={"rounds": 0})
    with pytest.raises(Exception, match="failed"):
        await run.handle.result()
    error = (await promoting.context(run)).error
    assert error is not None
    assert (error["error_type"], error["failed_step"]) == ("MessageRejectedError", "push")
    assert len(endpoint.received) == 1


def test_a_message_endpoint_without_tls_stops_the_start_outside_the_embedded_stack() -> None:
    settings = Settings(environment="production", message_webhook_url="http://127.0.0.1:1/x")
    with pytest.raises(ConfigurationError, match="PERENNIAL_MESSAGE_WEBHOOK_URL must be https"):
        transports(settings)
