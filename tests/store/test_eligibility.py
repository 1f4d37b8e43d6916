"""Checks whether a workflow may start for a person, just before its instance is stored."""

from __future__ import annotations

import pytest

from models.errors import ConsentRequiredError, UserErasedError, UserUnknownError
from models.temporal.starting import Startable
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.consents import consents
from store.consents.consents import ConsentDecision
from store.instances import starting
from testing.people import Customer


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher)


async def check(database: Database, cipher: Cipher, user_id: str, purpose: Purpose | None) -> None:
    workflow = Startable("win_back", "a test", purpose, 3, {})
    async with database.connection() as connection:
        await starting.check_eligible(connection, cipher, workflow, user_id)


async def test_a_purpose_needs_consent_and_a_service_needs_none(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    await check(database, cipher, customer.user_id, None)
    with pytest.raises(ConsentRequiredError):
        await check(database, cipher, customer.user_id, Purpose.MARKETING)
    async with database.transaction() as connection:
        decision = ConsentDecision(Purpose.MARKETING, True, "form", None, "consent")
        await consents.decide(connection, customer.user_id, decision, actor="test")
    await check(database, cipher, customer.user_id, Purpose.MARKETING)
    with pytest.raises(ConsentRequiredError):
        await check(database, cipher, customer.user_id, Purpose.PROFILING)
    async with database.transaction() as connection:
        await consents.withdraw(connection, customer.user_id, Purpose.MARKETING, actor="test")
    with pytest.raises(ConsentRequiredError):
        await check(database, cipher, customer.user_id, Purpose.MARKETING)


async def test_an_unknown_and_an_erased_person_give_different_errors(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    with pytest.raises(UserUnknownError):
        await check(database, cipher, "u-nobody", None)
    async with database.transaction() as connection:
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", customer.user_id)
    with pytest.raises(UserErasedError):
        await check(database, cipher, customer.user_id, None)
