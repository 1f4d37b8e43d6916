"""Payloads with which a journey reads its customer's profile."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from models.temporal.execution import TemporalPayload
from models.vocabulary import AccountStatus, LifecycleStage


class ProfileQuestion(TemporalPayload):
    """A query for the attributes that a workflow may know of a user."""

    user_id: str
    workflow_id: str


class KnownDemographics(TemporalPayload):
    """None: unknown, or not covered."""

    age: int | None = None
    gender: str | None = None
    country: str | None = None
    city: str | None = None
    language: str | None = None
    device_type: str | None = None


class KnownBehavior(TemporalPayload):
    """The defaults describe a person without events."""

    session_count: int = 0
    last_session_date: datetime | None = None
    engagement_score: float | None = None
    """0 to 100; None without the consent `profiling`."""


class KnownTransactions(TemporalPayload):
    """Amounts are in ``currency``, the one with the most purchases."""

    total_purchases: int = 0
    total_revenue: Decimal = Decimal(0)
    currency: str | None = None
    last_purchase_date: datetime | None = None
    subscription_tier: str | None = None
    purchase_frequency: float | None = None
    """Purchases per 30 days; None without purchases."""
    customer_lifetime_value: Decimal | None = None


class KnownProfile(TemporalPayload):
    """The attributes of a user that a workflow may know; without e-mail address, name and date of birth.

    A group has its defaults if consent doesn't cover it.
    """

    signup_date: datetime
    account_status: AccountStatus
    lifecycle_stage: LifecycleStage
    demographics: KnownDemographics = KnownDemographics()
    behavior: KnownBehavior = KnownBehavior()
    transactions: KnownTransactions = KnownTransactions()
