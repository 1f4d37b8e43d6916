"""Documents that requests send."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def user(user_id: str = "u-1", **changes: Any) -> dict[str, Any]:
    """A document for `POST /users`. ``changes`` add or replace attributes."""
    return {
        "user_id": user_id,
        "email": f"{user_id.lower()}@example.com",
        "name": "Ada Lovelace",
        "signup_date": "2026-01-05T10:00:00Z",
        "account_status": "active",
        "lifecycle_stage": "onboarding",
        **changes,
    }


def collected(user_id: str = "u-1", **demographics: Any) -> dict[str, Any]:
    """A document with demographics and the consent that they need."""
    return user(user_id, demographics=demographics, consents={"data_collection": True})


BORN = f"{datetime.now(UTC).year - 34}-01-01"
"""The date of birth of someone who is 34 throughout this year."""
EVERYTHING = user(
    demographics={
        "age": 34,
        "date_of_birth": BORN,
        "gender": "female",
        "country": "DE",
        "city": "Berlin",
        "timezone": "Europe/Berlin",
        "language": "de",
        "device_type": "mobile",
    },
    privacy_preferences={"city": True},
    consents={"data_collection": True, "profiling": True, "marketing": False},
    transactions={"subscription_tier": "pro"},
    lifecycle_stage_pinned=True,
)
"""A profile with every attribute."""
