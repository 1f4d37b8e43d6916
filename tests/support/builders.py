"""Documents as callers send them."""

from __future__ import annotations

from typing import Any


def user(user_id: str = "u-1", **changes: Any) -> dict[str, Any]:
    """A document for `POST /users` with the core attributes; ``changes`` add to it and replace."""
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
    """A document whose person has consented to the collection of these demographic attributes."""
    return user(user_id, demographics=demographics, consents={"data_collection": True})
