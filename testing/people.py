"""Customers for tests."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from models.rules.profile import Profile
from models.vocabulary import AccountStatus, LifecycleStage, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.consents import consents
from store.users import users


@dataclass(frozen=True)
class Customer:
    """A stored profile for one test. The fixture ``customer`` has one without consents.

    Example::

        assert mail.to(customer.email) == []
    """

    user_id: str
    email: str
    name: str
    database: Database

    @classmethod
    async def new(
        cls, database: Database, cipher: Cipher, *purposes: Purpose, timezone: str | None = None
    ) -> Customer:
        """Store a customer with these consents; :class:`Customers` is shorter.

        Example::

            customer = await Customer.new(database, cipher, Purpose.MARKETING)
        """
        mark = uuid.uuid4().hex[:12]
        customer = cls(f"u-{mark}", f"ada.{mark}@example.com", f"Ada {mark}", database)
        profile = Profile(
            user_id=customer.user_id,
            email=customer.email,
            name=customer.name,
            signup_date=datetime(2026, 1, 5, 10, tzinfo=UTC),
            account_status=AccountStatus.ACTIVE,
            lifecycle_stage=LifecycleStage.ONBOARDING,
            demographics={"timezone": timezone} if timezone else {},
            consents={purpose.value: True for purpose in purposes},
        )
        async with database.transaction() as connection:
            await users.create(connection, cipher, profile, actor="test")
        return customer

    async def stage(self) -> str:
        """The stored lifecycle stage.

        Example::

            assert await customer.stage() == "at_risk"
        """
        async with self.database.connection() as connection:
            return str(
                await connection.fetchval("SELECT lifecycle_stage FROM users WHERE user_id = $1", self.user_id)
            )

    async def withdraw(self, purpose: Purpose) -> None:
        """Withdraw a consent. :meth:`testing.runs.Runs.withdraw` also ends the instances that need it.

        Example::

            await customer.withdraw(Purpose.MARKETING)
        """
        async with self.database.transaction() as connection:
            await consents.withdraw(connection, self.user_id, purpose, actor="test")

    async def pin(self, stage: str) -> None:
        """Pin the customer to a stage.

        Example::

            await customer.pin("active")
        """
        async with self.database.connection() as connection:
            await connection.execute(
                "UPDATE users SET lifecycle_stage = $2, lifecycle_stage_pinned = true WHERE user_id = $1",
                self.user_id,
                stage,
            )


@dataclass(frozen=True)
class Customers:
    """Stores customers; the fixture ``customers``.

    Example::

        customer = await customers.new("marketing", "data_collection", timezone="Europe/Berlin")
    """

    database: Database
    cipher: Cipher

    async def new(self, *purposes: Purpose | str, timezone: str | None = None) -> Customer:
        """Store a customer with these consents.

        Example::

            customer = await customers.new("data_collection")
        """
        return await Customer.new(
            self.database, self.cipher, *(Purpose(purpose) for purpose in purposes), timezone=timezone
        )
