"""Every transaction that locks rows of one person, concurrently and for many rounds, over two pools.

Sends, withdrawals, replays, the ends of replays, starts by trigger: Postgres reports no deadlock, and no message
is sent after a withdrawal was answered.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest
from temporalio.testing import WorkflowEnvironment

from activities.messages import Messages
from activities.outbox import Outbox
from delivery.templates import TEMPLATES
from models.errors import ConsentRequiredError, PerennialError
from models.instances import NewInstance
from models.temporal.execution import Message, StepContext, StepFailure
from models.temporal.starting import Startable
from models.vocabulary import InstanceStatus, MessageStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.consents import consents
from store.consents.consents import ConsentDecision
from store.instances import attempts, dead_letters, replays, terminal, transitions
from store.instances.dead_letters import Filter, StoredDeadLetter
from store.instances.instances import Unfinished
from store.instances.terminal import Ending
from store.messages.send_gate import FrequencyCap
from store.users import data_keys
from testing.people import Customer
from tests.support.locks import until_blocked

ROUNDS = 40
FAILED = 3
PURPOSES: Mapping[str, Purpose | None] = {"win_back": Purpose.MARKETING}
STARTABLE = Startable("win_back", "a test", Purpose.MARKETING, 1, {}, once_per=timedelta(seconds=0.001))
CAP = FrequencyCap(1_000_000, timedelta(days=1))


@dataclass
class Person:
    """The contending transactions of one person, over one pool."""

    customer: Customer
    database: Database
    cipher: Cipher

    async def send(self) -> MessageStatus:
        """Send a message with the real activity; without a transport it becomes `outbox`."""
        context = StepContext(
            workflow_id="win_back",
            instance_id=uuid.uuid4().hex,
            user_id=self.customer.user_id,
            step="send",
            position=1,
            max_attempts=1,
        )
        activity = Messages(
            self.database,
            self.cipher,
            {},
            PURPOSES,
            resend_unconfirmed=False,
            cap=CAP,
            templates=TEMPLATES,
        )
        return (await activity.send(Message(template="welcome", context=context))).status

    async def grant(self) -> None:
        async with self.database.transaction() as connection:
            said = ConsentDecision(Purpose.MARKETING, True, uuid.uuid4().hex, None, "consent")
            await consents.decide(connection, self.customer.user_id, said, actor="test")

    async def withdraw(self) -> None:
        async with self.database.transaction() as connection:
            await consents.withdraw(connection, self.customer.user_id, Purpose.MARKETING, actor="test")

    async def fail(self) -> None:
        """Store a failed instance with its dead letter."""
        new = NewInstance(
            uuid.uuid4().hex, "win_back", self.customer.user_id, 1, {}, "test", purpose=Purpose.MARKETING
        )
        async with self.database.transaction() as connection:
            key = await data_keys.require(connection, self.cipher, self.customer.user_id)
            await transitions.insert(connection, key, new)
        await self._end(new.instance_id)

    async def _end(self, instance_id: str) -> None:
        failure = StepFailure(error_type="Test", error_message="", failed_step="send", stack_trace="")
        unfinished = Unfinished(instance_id, "win_back", self.customer.user_id, "send", None)
        ending = Ending(InstanceStatus.FAILED, uuid.uuid4().hex, failure)
        async with self.database.transaction() as connection:
            await terminal.end_unrecorded(connection, self.cipher, unfinished, ending)

    async def replay(self) -> None:
        """Request a replay, and end it: rejected, failed again, or its step completed. Other requests race it."""
        async with self.database.connection() as connection:
            wanted = Filter(user_id=self.customer.user_id)
            letters = await dead_letters.page(connection, self.cipher, wanted, before=None, limit=FAILED)
        letter = random.choice(letters)
        outcomes = [self._request(letters), self._reject(letter), self._end(letter.instance_id)]
        if random.random() < 0.2:
            outcomes.append(self._complete(letter))
        random.shuffle(outcomes)
        await asyncio.gather(*outcomes)

    async def _request(self, letters: list[StoredDeadLetter]) -> None:
        async with self.database.transaction() as connection:
            try:
                if random.random() < 0.5:
                    await replays.request(connection, self.cipher, random.choice(letters).dead_letter_id)
                else:
                    await replays.request_all(connection, letters, pause=timedelta())
            except PerennialError:
                pass

    async def _reject(self, letter: StoredDeadLetter) -> None:
        async with self.database.transaction() as connection:
            await replays.reject(connection, self.cipher, letter)

    async def _complete(self, letter: StoredDeadLetter) -> None:
        context = StepContext(
            workflow_id="win_back",
            instance_id=letter.instance_id,
            user_id=self.customer.user_id,
            step="send",
            position=1,
            max_attempts=1,
        )
        async with self.database.connection() as connection:
            begun, key = await attempts.begin_attempt(connection, self.cipher, context, uuid.uuid4().hex)
            await attempts.complete_attempt(connection, context, begun.number, key, {})

    async def trigger(self) -> None:
        """Write an outbox entry for a start."""
        async with self.database.connection() as connection:
            await connection.execute(
                """INSERT INTO temporal_outbox
                       (kind, workflow_id, instance_id, step, user_id, event_id, event_type, event_timestamp)
                   VALUES ('start', 'win_back', $1, NULL, $2, $1, 'test.test', now())""",
                uuid.uuid4().hex,
                self.customer.user_id,
            )

    async def sent(self) -> int:
        async with self.database.connection() as connection:
            count: int = await connection.fetchval("SELECT count(*) FROM messages WHERE status = 'outbox'")
        return count


@pytest.fixture
async def two_pools(database: Database, database_url: str) -> AsyncIterator[tuple[Database, Database]]:
    pools = (
        Database(database_url, size=12, application="one"),
        Database(database_url, size=12, application="two"),
    )
    for pool in pools:
        await pool.open()
    yield pools
    for pool in pools:
        await pool.close()


async def _deadlocks(owner: asyncpg.Connection[asyncpg.Record]) -> int:
    count: int = await owner.fetchval("SELECT sum(deadlocks) FROM pg_stat_database")
    return count


async def _again(act: Callable[[], Awaitable[object]], over: asyncio.Event) -> None:
    while not over.is_set():
        await act()
        await asyncio.sleep(random.uniform(0, 0.005))


@pytest.mark.slow
async def test_transactions_never_deadlock_and_no_message_is_sent_after_a_withdrawal(
    two_pools: tuple[Database, Database],
    owner: asyncpg.Connection[asyncpg.Record],
    skipping: WorkflowEnvironment,
    cipher: Cipher,
) -> None:
    customer = await Customer.new(two_pools[0], cipher, Purpose.MARKETING)
    sides = [Person(customer, pool, cipher) for pool in two_pools]
    for _ in range(FAILED):
        await sides[0].fail()
    before = await _deadlocks(owner)
    over = asyncio.Event()
    outboxes = [
        Outbox(
            side.database,
            cipher,
            skipping.client,
            skipping.client,
            f"locks-{uuid.uuid4().hex}",
            {"win_back": STARTABLE},
        )
        for side in sides
    ]
    async with asyncio.TaskGroup() as group:
        for side, outbox in zip(sides, outboxes, strict=True):
            group.create_task(outbox.deliver_while(lambda: not over.is_set()))
            for act in (side.send, side.send, side.replay, side.trigger):
                group.create_task(_again(act, over))
        grown = 0
        for _, side in zip(range(ROUNDS), itertools.cycle(sides), strict=False):
            await side.grant()
            granted = await side.sent()
            await asyncio.sleep(random.uniform(0.02, 0.08))
            await side.withdraw()
            answered = await side.sent()
            grown += answered > granted
            await asyncio.sleep(0.03)
            assert await side.sent() == answered
        over.set()
    assert grown > ROUNDS / 2
    await asyncio.sleep(1.1)  # sessions report their counts within a second
    assert await _deadlocks(owner) == before


@pytest.mark.parametrize("begin", ["trigger", "replay"])
async def test_a_start_or_replay_during_a_withdrawal_waits_for_it_and_then_starts_nothing(
    database: Database, cipher: Cipher, skipping: WorkflowEnvironment, begin: str
) -> None:
    """Without the wait it would read the consent before the withdrawal commits, and outlive it."""
    customer = await Customer.new(database, cipher, Purpose.MARKETING)
    person = Person(customer, database, cipher)
    if begin == "replay":
        await person.fail()
    outbox = Outbox(
        database, cipher, skipping.client, skipping.client, f"locks-{uuid.uuid4().hex}", {"win_back": STARTABLE}
    )
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        async with database.transaction() as withdrawing:
            await consents.withdraw(withdrawing, customer.user_id, Purpose.MARKETING, actor="test")
            if begin == "trigger":
                await person.trigger()
                group.create_task(outbox.deliver_while(lambda: not over.is_set()))
            else:
                group.create_task(_replayed(person))
            await until_blocked(database, 1)
        async with asyncio.timeout(60), database.connection() as connection:
            while await connection.fetchval("SELECT count(*) FROM temporal_outbox WHERE kind = 'start'"):
                await asyncio.sleep(0.02)
        over.set()
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM instances WHERE end_time IS NULL") == 0


async def _replayed(person: Person) -> None:
    async with person.database.transaction() as connection:
        [letter] = await dead_letters.find_open(connection, person.cipher, Filter(), 1)
        with pytest.raises(ConsentRequiredError):
            await replays.request(connection, person.cipher, letter.dead_letter_id)
