"""Whether a workflow may run for a person: what is asked right before its instance is stored."""

from __future__ import annotations

import pytest

from models.errors import UserErased, UserUnknown
from models.vocabulary import Purpose
from privacy.sealing import Sealer
from runtime.database import Database
from store import consents, instances
from store.consents import Statement
from tests.support.people import Customer


@pytest.fixture
async def customer(database: Database, sealer: Sealer) -> Customer:
    return await Customer.new(database, sealer)


async def consented(database: Database, sealer: Sealer, user_id: str, purpose: Purpose | None) -> bool:
    async with database.connection() as connection:
        return (await instances.admission(connection, sealer, "win_back", user_id, purpose)).consented


async def test_a_purpose_needs_consent_and_a_service_needs_none(
    database: Database, sealer: Sealer, customer: Customer
) -> None:
    assert await consented(database, sealer, customer.user_id, None)
    assert not await consented(database, sealer, customer.user_id, Purpose.MARKETING)
    async with database.transaction() as connection:
        said = Statement(Purpose.MARKETING, True, "form", None, "consent")
        await consents.state(connection, customer.user_id, said, actor="test")
    assert await consented(database, sealer, customer.user_id, Purpose.MARKETING)
    assert not await consented(database, sealer, customer.user_id, Purpose.PROFILING)
    async with database.transaction() as connection:
        await consents.withdraw(connection, customer.user_id, Purpose.MARKETING, actor="test")
    assert not await consented(database, sealer, customer.user_id, Purpose.MARKETING)


async def test_nobody_and_the_erased_are_told_apart(
    database: Database, sealer: Sealer, customer: Customer
) -> None:
    with pytest.raises(UserUnknown):
        await consented(database, sealer, "u-nobody", None)
    async with database.transaction() as connection:
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", customer.user_id)
    with pytest.raises(UserErased):
        await consented(database, sealer, customer.user_id, None)
