"""All that locks something of one person, at once and for many rounds, over two pools of connections.

Messages that leave, withdrawals, replays and what becomes of them, starts by trigger: nobody waits in a circle,
and no message leaves after a withdrawal was answered.
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
from activities.outbox import Outbox, Startable
from delivery.templates import TEMPLATES
from models.errors import ConsentRequiredError, PerennialError
from models.temporal.execution import Message, StepContext, StepFailure
from models.vocabulary import InstanceStatus, MessageStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.consents import consents
from store.consents.consents import ConsentDecision
from store.instances import attempts, dead_letters, instances, replays, terminal
from store.instances.dead_letters import Filter, StoredDeadLetter
from store.instances.instances import NewInstance
from store.instances.terminal import Ending, Unfinished
from store.messages.send_gate import FrequencyCap
from store.users import data_keys
from tests.support.locks import until_blocked
from tests.support.people import Customer

ROUNDS = 40
LETTERS = 3
PURPOSES: Mapping[str, Purpose | None] = {"win_back": Purpose.MARKETING}
STARTABLE = Startable("a test", Purpose.MARKETING, 1, {}, once_per=timedelta(seconds=0.001))
CAP = FrequencyCap(1_000_000, timedelta(days=1))


@dataclass
class Person:
    """What contends for one person, over one pool of connections."""

    customer: Customer
    database: Database
    cipher: Cipher

    async def send(self) -> MessageStatus:
        """A message by the real activity; it ends in the outbox, since there is no transport."""
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
        """An instance that has failed, and its letter."""
        new = NewInstance(
            uuid.uuid4().hex, "win_back", self.customer.user_id, 1, {}, "test", purpose=Purpose.MARKETING
        )
        async with self.database.transaction() as connection:
            key = await data_keys.require(connection, self.cipher, self.customer.user_id)
            await instances.insert(connection, key, new)
        await self._end(new.instance_id)

    async def _end(self, instance_id: str) -> None:
        failure = StepFailure(error_type="Test", error_message="", failed_step="send", stack_trace="")
        unfinished = Unfinished(instance_id, "win_back", self.customer.user_id, "send", None)
        ending = Ending(InstanceStatus.FAILED, uuid.uuid4().hex, failure, None, None)
        async with self.database.transaction() as connection:
            await terminal.end(connection, self.cipher, unfinished, ending)

    async def replay(self) -> None:
        """A letter is replayed, and what comes of it: given back, failed anew, or its step completed; meanwhile
        others ask for the same."""
        async with self.database.connection() as connection:
            wanted = Filter(user_id=self.customer.user_id)
            letters = await dead_letters.page(connection, self.cipher, wanted, before=None, limit=LETTERS)
        letter = random.choice(letters)
        outcomes = [self._request(letters), self._give_back(letter), self._end(letter.instance_id)]
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

    async def _give_back(self, letter: StoredDeadLetter) -> None:
        async with self.database.transaction() as connection:
            await replays.give_back(connection, self.cipher, letter)

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
        """A start's letter in the outbox."""
        async with self.database.connection() as connection:
            await connection.execute(
                """INSERT INTO temporal_outbox
                       (kind, workflow_id, instance_id, step, user_id, event_id, event_type, event_timestamp)
                   VALUES ('start', 'win_back', $1, NULL, $2, $1, 'test.test', now())""",
                uuid.uuid4().hex,
                self.customer.user_id,
            )

    async def left(self) -> int:
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
async def test_nobody_waits_in_a_circle_and_nothing_leaves_after_a_withdrawal(
    two_pools: tuple[Database, Database],
    owner: asyncpg.Connection[asyncpg.Record],
    skipping: WorkflowEnvironment,
    cipher: Cipher,
) -> None:
    customer = await Customer.new(two_pools[0], cipher, Purpose.MARKETING)
    sides = [Person(customer, pool, cipher) for pool in two_pools]
    for _ in range(LETTERS):
        await sides[0].fail()
    before = await _deadlocks(owner)
    over = asyncio.Event()
    carriers = [
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
        for side, carrier in zip(sides, carriers, strict=True):
            group.create_task(carrier.carry_on(lambda: not over.is_set()))
            for act in (side.send, side.send, side.replay, side.trigger):
                group.create_task(_again(act, over))
        grown = 0
        for _, side in zip(range(ROUNDS), itertools.cycle(sides), strict=False):
            await side.grant()
            granted = await side.left()
            await asyncio.sleep(random.uniform(0.02, 0.08))
            await side.withdraw()
            answered = await side.left()
            grown += answered > granted
            await asyncio.sleep(0.03)
            assert await side.left() == answered
        over.set()
    assert grown > ROUNDS / 2
    await asyncio.sleep(1.1)  # what a session has counted is told within a second
    assert await _deadlocks(owner) == before


@pytest.mark.parametrize("begin", ["trigger", "replay"])
async def test_who_begins_while_a_withdrawal_is_made_waits_for_it_and_begins_nothing(
    database: Database, cipher: Cipher, skipping: WorkflowEnvironment, begin: str
) -> None:
    """To look without waiting would see the consent that is about to go, and begin what nobody ends."""
    customer = await Customer.new(database, cipher, Purpose.MARKETING)
    person = Person(customer, database, cipher)
    if begin == "replay":
        await person.fail()
    carrier = Outbox(
        database, cipher, skipping.client, skipping.client, f"locks-{uuid.uuid4().hex}", {"win_back": STARTABLE}
    )
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        async with database.transaction() as withdrawing:
            await consents.withdraw(withdrawing, customer.user_id, Purpose.MARKETING, actor="test")
            if begin == "trigger":
                await person.trigger()
                group.create_task(carrier.carry_on(lambda: not over.is_set()))
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
        [letter] = await dead_letters.open_ones(connection, person.cipher, Filter(), 1)
        with pytest.raises(ConsentRequiredError):
            await replays.request(connection, person.cipher, letter.dead_letter_id)
