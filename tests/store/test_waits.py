"""Which events a wait counts, at the exact boundaries, in the projector and in the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.instances import NewInstance
from models.rules.folding import LogEvent
from models.rules.sharding import shard_of
from models.temporal.execution import WaitRequest
from models.vocabulary import Basis, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store import outbox
from store.instances import transitions, waits
from store.instances.waits import GRACE
from store.users import data_keys
from testing.people import Customer

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)

Counted = Callable[..., Awaitable[bool]]


@pytest.fixture
def counted(database: Database, cipher: Cipher, customer: Customer) -> Counted:
    """Whether an event counts: (timestamp, received_at), after a trigger (timestamp, received_at) or none.

    The projector and the read of the log must agree.
    """

    async def answer(
        event: tuple[datetime, datetime],
        trigger: tuple[datetime, datetime] | None = None,
        *,
        since: datetime | None = None,
        started: datetime = NOON,
        event_type: str = "cart.drop",
        basis: Basis = Basis.CONSENT,
        purpose: Purpose | None = None,
    ) -> bool:
        async with database.transaction() as connection:
            await connection.execute("SELECT ensure_events_partition($1)", NOON.date().replace(day=1))
            await connection.execute("DELETE FROM events")
            await connection.execute("DELETE FROM event_waits")
            await connection.execute("DELETE FROM instances")
            for event_id, times in (("trigger", trigger), ("event", event)):
                if times is not None:
                    await connection.execute(
                        """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard,
                                               generation, historical, body, received_at, basis)
                           VALUES ($1, $2, $6, $3, 's', $4, 1, false, '', $5, $7)""",
                        event_id,
                        customer.user_id,
                        times[0],
                        shard_of(customer.user_id),
                        times[1],
                        event_type,
                        basis,
                    )
            key = await data_keys.require(connection, cipher, customer.user_id)
            new = NewInstance("i-1", "leaver", customer.user_id, 3, {}, "t", purpose)
            await transitions.insert(connection, key, new)
            await connection.execute("UPDATE instances SET start_time = $1", started)
            if trigger is not None:
                await transitions.record_trigger(connection, "i-1", "trigger", trigger[0])
            asked: Mapping[str, Any] = {"wait": WaitRequest(event_type="cart.*", since=since)}
            await waits.register(connection, key, "i-1", asked)
            found = await waits.already_recorded(connection, key, "i-1", customer.user_id, asked)
            projected = LogEvent(
                "event", customer.user_id, event_type, event[0], "s", event[1], False, dict, basis
            )
            by_projector = bool(await outbox.enqueue(connection, [projected], (), {customer.user_id: key}))
        assert [each.event_id for each in found] == ["event"] * by_projector
        return by_projector

    return answer


@pytest.mark.parametrize(
    ("event", "trigger", "counts"),
    [
        # Received after the trigger: it counts from the trigger's own time on.
        ((NOON, NOON + MINUTE), (NOON, NOON + MINUTE), True),
        ((NOON - TICK, NOON + MINUTE), (NOON, NOON + MINUTE), False),
        # Received before the trigger: it counts if it happened later.
        ((NOON + TICK, NOON + MINUTE - TICK), (NOON, NOON + MINUTE), True),
        ((NOON + MINUTE, NOON + MINUTE), (NOON - MINUTE, NOON + 5 * MINUTE), True),
        ((NOON, NOON + MINUTE - TICK), (NOON, NOON + MINUTE), False),
        ((NOON - TICK, NOON), (NOON, NOON + MINUTE), False),
        # The client's clock is ten minutes ahead.
        ((NOON + 9 * MINUTE, NOON - MINUTE), (NOON + 10 * MINUTE, NOON), False),
        ((NOON + 11 * MINUTE, NOON - MINUTE), (NOON + 10 * MINUTE, NOON), True),
        ((NOON + MINUTE, NOON + MINUTE), (NOON + 10 * MINUTE, NOON), True),
    ],
)
async def test_after_a_trigger_events_that_happened_later_count_whenever_they_were_received(
    counted: Counted, event: tuple[datetime, datetime], trigger: tuple[datetime, datetime], counts: bool
) -> None:
    assert await counted(event, trigger) is counts


@pytest.mark.parametrize(
    ("event", "counts"),
    [
        ((NOON, NOON), True),
        ((NOON, NOON - TICK), False),
        ((NOON + MINUTE, NOON - TICK), False),
        ((NOON - GRACE, NOON), True),
        ((NOON - GRACE - TICK, NOON), False),
    ],
)
async def test_after_a_request_events_received_since_the_start_count(
    counted: Counted, event: tuple[datetime, datetime], counts: bool
) -> None:
    assert await counted(event) is counts


async def test_an_event_exactly_at_since_counts_and_an_earlier_one_does_not(counted: Counted) -> None:
    since = NOON + MINUTE
    assert await counted((since, since), since=since)
    assert not await counted((since - TICK, since), since=since)


async def test_a_category_counts_only_its_own_types(counted: Counted) -> None:
    assert await counted((NOON, NOON), event_type="cart.drop")
    assert not await counted((NOON, NOON), event_type="carts.drop")


@pytest.mark.parametrize("basis", [Basis.CONTRACT, Basis.LEGAL_OBLIGATION])
@pytest.mark.parametrize("purpose", [None, *Purpose])
async def test_an_event_without_consent_counts_for_services_alone(
    counted: Counted, basis: Basis, purpose: Purpose | None
) -> None:
    assert await counted((NOON, NOON), basis=basis, purpose=purpose) is (purpose is None)
    assert await counted((NOON, NOON), purpose=purpose)
