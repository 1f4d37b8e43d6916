"""Maps a profile to its encrypted row in `users` and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asyncpg import Record
from sqlalchemy import collate, func, literal_column
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlmodel import col

from models.personal import columns_of, personal_columns
from models.rules.activity import MOST_CURRENCIES, MOST_FEATURES, Activity, CurrencyTotal
from models.rules.profile import DEMOGRAPHICS, Profile
from models.tables.people import Consent, User
from models.tables.projections import FeatureUsage, PurchaseTotal, UserActivity
from models.vocabulary import AccountStatus, LifecycleStage
from privacy.encryption import Cipher, DataKey
from store.statements import select

_PERSONAL = frozenset(personal_columns(User))
_SET_BY_STATEMENTS = {
    *("version", "created_at", "updated_at", "closed_at", "writes", "person"),
    *("attribute_times", "lifecycle_stage_changed_at"),
}

WRITTEN = [each for each in columns_of(User) if each.name not in _SET_BY_STATEMENTS]
"""The columns that come from a profile."""
_READ = [each.name for each in WRITTEN if each.name != "email_index"]


def _of_user(value: Any, owner: SQLCoreOperations[str], name: str) -> Any:
    return select(value).where(owner == col(User.user_id)).scalar_subquery().label(name)


def _most_used_features() -> Any:
    """By feature: uses; one more than a profile shows, so that it can tell that it doesn't show all."""
    used = (
        select(col(FeatureUsage.feature), col(FeatureUsage.uses))
        .where(col(FeatureUsage.user_id) == col(User.user_id))
        .correlate(User)  # two levels up: without this the subquery reads the features of all users
        .order_by(col(FeatureUsage.uses).desc(), collate(col(FeatureUsage.feature), "C"))
        .limit(literal_column(str(MOST_FEATURES + 1)))
        .lateral("used")
    )
    return select(func.jsonb_object_agg(used.c.feature, used.c.uses)).scalar_subquery().label("features")


def _largest_totals() -> Any:
    """Rows of the currencies with the most purchases, one more than a profile shows.

    Each row also has the number, the latest and the first time of the purchases in all currencies.
    """
    purchases, latest = col(PurchaseTotal.purchases), col(PurchaseTotal.last_purchase_at)
    first = col(PurchaseTotal.first_purchase_at)
    largest = (
        select(
            col(PurchaseTotal.currency),
            purchases,
            col(PurchaseTotal.revenue),
            latest,
            first,
            func.sum(purchases).over().label("in_all"),
            func.max(latest).over().label("latest_of_all"),
            func.min(first).over().label("first_of_all"),
        )
        .where(col(PurchaseTotal.user_id) == col(User.user_id))
        .order_by(purchases.desc(), latest.desc().nulls_last(), collate(col(PurchaseTotal.currency), "C").desc())
        .limit(literal_column(str(MOST_CURRENCIES + 1)))
        .correlate(User)
        .lateral("largest")
    )
    row = func.row(*largest.c)
    return select(func.array_agg(aggregate_order_by(row, largest.c.currency))).scalar_subquery().label("totals")


_ACTIVITY: list[Any] = [
    _of_user(
        func.row(
            col(UserActivity.session_count),
            col(UserActivity.last_session_date),
            col(UserActivity.total_session_seconds),
            col(UserActivity.decayed_sessions),
            col(UserActivity.decayed_actions),
        ),
        col(UserActivity.user_id),
        "activity",
    ),
    _most_used_features(),
    _largest_totals(),
]
CONSENTS = _of_user(
    func.jsonb_object_agg(col(Consent.purpose), col(Consent.granted)), col(Consent.user_id), "consents"
)
STORED: list[Any] = [
    *(each for each in WRITTEN if each.name in _READ),
    col(User.version),
    col(User.created_at),
    col(User.updated_at),
    col(User.writes),
    *_ACTIVITY,
]
"""The columns that :func:`open_row` needs from a statement over `users`."""


@dataclass(frozen=True)
class StoredUser:
    """A stored profile. :class:`models.tables.people.User` describes its numbers."""

    profile: Profile
    version: int
    created_at: datetime
    updated_at: datetime
    writes: int
    activity: Activity = field(default_factory=Activity)
    """The projector computes it from events."""


def open_row(row: Record, key: DataKey, consents: Mapping[str, bool] | None) -> StoredUser:
    """Decrypt a row with the columns :data:`STORED`; raises :class:`privacy.encryption.DecryptionError`."""
    values = {
        name: key.decrypt_json(f"users.{name}", row[name]) if name in _PERSONAL else row[name] for name in _READ
    }
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
        consents=dict(consents or {}),
        subscription_tier=values["subscription_tier"],
    )
    sessions, last_session, seconds, decayed_sessions, decayed_actions = row["activity"] or (0, None, 0.0, 0, 0)
    totals = row["totals"] or ()
    activity = Activity(
        session_count=sessions,
        last_session_date=last_session,
        total_session_seconds=seconds,
        decayed_sessions=int(decayed_sessions),
        decayed_actions=int(decayed_actions),
        features=row["features"] or {},
        totals=tuple(CurrencyTotal(*total[:5]) for total in totals),
        purchases_in_all=(int(totals[0][5]), totals[0][6], totals[0][7]) if totals else None,
    )
    return StoredUser(profile, row["version"], row["created_at"], row["updated_at"], row["writes"], activity)


def encrypted_row(profile: Profile, key: DataKey, cipher: Cipher) -> dict[str, Any]:
    """The columns :data:`WRITTEN` of a profile; personal ones are encrypted with the person's key."""
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
        name: key.encrypt_json(f"users.{name}", value) if name in _PERSONAL else value
        for name, value in values.items()
    }


def as_lists(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as one list per column: the parameters of :func:`store.statements.unnested`."""
    held = list(rows)
    return {each.name: [row[each.name] for row in held] for each in WRITTEN}
