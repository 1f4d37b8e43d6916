"""Whether a workflow may run for a person: what is asked right before its instance is stored."""

from __future__ import annotations

import pytest

from models.errors import UserErasedError, UserUnknownError
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.consents import consents
from store.consents.consents import ConsentDecision
from store.instances import instances
from tests.support.people import Customer


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher)


async def consented(database: Database, cipher: Cipher, user_id: str, purpose: Purpose | None) -> bool:
    async with database.connection() as connection:
        return (await instances.eligibility(connection, cipher, "win_back", user_id, purpose)).consented


async def test_a_purpose_needs_consent_and_a_service_needs_none(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    assert await consented(database, cipher, customer.user_id, None)
    assert not await consented(database, cipher, customer.user_id, Purpose.MARKETING)
    async with database.transaction() as connection:
        said = ConsentDecision(Purpose.MARKETING, True, "form", None, "consent")
        await consents.decide(connection, customer.user_id, said, actor="test")
    assert await consented(database, cipher, customer.user_id, Purpose.MARKETING)
    assert not await consented(database, cipher, customer.user_id, Purpose.PROFILING)
    async with database.transaction() as connection:
        await consents.withdraw(connection, customer.user_id, Purpose.MARKETING, actor="test")
    assert not await consented(database, cipher, customer.user_id, Purpose.MARKETING)


async def test_nobody_and_the_erased_are_told_apart(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    with pytest.raises(UserUnknownError):
        await consented(database, cipher, "u-nobody", None)
    async with database.transaction() as connection:
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", customer.user_id)
    with pytest.raises(UserErasedError):
        await consented(database, cipher, customer.user_id, None)
