"""Between a profile and its encrypted row: the only place that knows which column holds what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from models.personal import personal_columns
from models.rules.activity import Activity
from models.rules.profile import DEMOGRAPHICS, Profile
from models.tables.people import User
from models.vocabulary import AccountStatus, LifecycleStage
from privacy.encryption import Cipher, DataKey
from store.events.projection import activity_of

PERSONAL = frozenset(personal_columns(User))

COLUMNS: dict[str, str] = {
    "user_id": "text",
    "email": "bytea",
    "email_index": "bytea",
    "name": "bytea",
    "signup_date": "timestamptz",
    "account_status": "text",
    "lifecycle_stage": "text",
    "lifecycle_stage_pinned": "boolean",
    "age": "bytea",
    "date_of_birth": "bytea",
    "gender": "bytea",
    "country": "text",
    "city": "bytea",
    "timezone": "bytea",
    "language": "bytea",
    "device_type": "bytea",
    "privacy_preferences": "jsonb",
    "subscription_tier": "text",
}
"""What a profile writes, with the types of the columns; version and times are the statements' own."""


@dataclass(frozen=True)
class StoredUser:
    """A profile as it is stored. ``version`` grows by one with every change."""

    profile: Profile
    version: int
    created_at: datetime
    updated_at: datetime
    activity: Activity = field(default_factory=Activity)
    """What is computed from events."""


def open_row(row: asyncpg.Record, key: DataKey, consents: Mapping[str, bool]) -> StoredUser:
    """The profile in a row of `users` with :data:`store.events.events.projection.ACTIVITY`; raises
    :class:`privacy.encryption.DecryptionError`."""
    values = {name: _open(row, key, name) for name in COLUMNS if name != "email_index"}
    profile = Profile(
        user_id=values["user_id"],
        email=values["email"],
        name=values["name"],
        signup_date=values["signup_date"],
        account_status=AccountStatus(values["account_status"]),
        lifecycle_stage=LifecycleStage(values["lifecycle_stage"]),
        lifecycle_stage_pinned=values["lifecycle_stage_pinned"],
        demographics={name: values[name] for name in DEMOGRAPHICS if values[name] is not None},
        privacy_preferences=values["privacy_preferences"],
        consents=dict(consents),
        subscription_tier=values["subscription_tier"],
    )
    return StoredUser(profile, row["version"], row["created_at"], row["updated_at"], activity_of(row))


def _open(row: asyncpg.Record, key: DataKey, name: str) -> Any:
    return key.decrypt_json(f"users.{name}", row[name]) if name in PERSONAL else row[name]


def encrypted_row(profile: Profile, key: DataKey, cipher: Cipher) -> dict[str, Any]:
    """The columns of a profile, personal ones encrypted with the person's key."""
    values = {
        "user_id": profile.user_id,
        "email": profile.email,
        "email_index": cipher.email_index(profile.email),
        "name": profile.name,
        "signup_date": profile.signup_date,
        "account_status": profile.account_status,
        "lifecycle_stage": profile.lifecycle_stage,
        "lifecycle_stage_pinned": profile.lifecycle_stage_pinned,
        **{name: profile.demographics.get(name) for name in DEMOGRAPHICS},
        "privacy_preferences": dict(profile.privacy_preferences),
        "subscription_tier": profile.subscription_tier,
    }
    return {
        name: key.encrypt_json(f"users.{name}", value) if name in PERSONAL else value
        for name, value in values.items()
    }


def as_arrays(rows: Iterable[Mapping[str, Any]]) -> list[Sequence[Any]]:
    """Rows as one array a column, in the order of :data:`COLUMNS`, for `unnest`."""
    held = list(rows)
    return [[row[name] for row in held] for name in COLUMNS]


UNNEST = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(COLUMNS.values(), start=1))
NAMES = ", ".join(COLUMNS)
