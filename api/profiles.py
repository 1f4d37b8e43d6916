"""Profiles as each role sees them.

An entity tag covers what its representation shows. Admins, operators and analysts see what is computed from
events, so that their tags change with it; the answers to an integrator's writes don't show it, and their tags
change with the profile's version alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from api.etags import strong
from api.masking import profile_for
from models.rules.activity import Activity
from models.rules.money import average, written
from models.schemas.users import Behavior, Consents, Demographics, Transactions, UserProfile
from models.vocabulary import Purpose, Role
from privacy.masking import sees_people
from store.users.rows import StoredUser

_ALWAYS = ("user_id", "created_at", "updated_at")
SHOWN = (
    *(UserProfile.model_fields.keys() - {"demographics"}),
    *(f"demographics.{name}" for name in Demographics.model_fields),
)
"""The names of what a profile shows, for the audit log."""


def profile(stored: StoredUser) -> UserProfile:
    """A profile in full."""
    known = stored.profile
    profiling = known.consents_to(Purpose.PROFILING)
    score = stored.activity.engagement_score(datetime.now(UTC), profiling=profiling)
    return UserProfile(
        user_id=known.user_id,
        email=known.email,
        name=known.name,
        signup_date=known.signup_date,
        account_status=known.account_status,
        lifecycle_stage=known.lifecycle_stage,
        lifecycle_stage_pinned=known.lifecycle_stage_pinned,
        demographics=Demographics(**known.demographics),
        privacy_preferences=dict(known.privacy_preferences),
        consents=Consents(**known.consents),
        behavior=_behavior(stored.activity, score),
        transactions=_transactions(stored.activity, known.subscription_tier),
        created_at=stored.created_at,
        updated_at=stored.updated_at,
    )


def _behavior(activity: Activity, engagement_score: float | None) -> Behavior:
    return Behavior(
        session_count=activity.session_count,
        last_session_date=activity.last_session_date,
        total_session_duration=activity.total_session_seconds,
        feature_usage_map=dict(sorted(activity.features.items())),
        engagement_score=engagement_score,
    )


def _transactions(activity: Activity, subscription_tier: str | None) -> Transactions:
    main = activity.main_total
    if main is None:
        return Transactions(subscription_tier=subscription_tier)
    return Transactions(
        total_purchases=activity.total_purchases,
        total_revenue=written(main.revenue),
        average_order_value=average(main.revenue, main.purchases),
        currency=main.currency,
        revenue_by_currency={total.currency: written(total.revenue) for total in activity.totals},
        last_purchase_date=activity.last_purchase_at,
        subscription_tier=subscription_tier,
    )


def seen_by(role: Role, stored: StoredUser) -> dict[str, Any]:
    """A profile as a role reads it: masked, unless the role sees people."""
    return profile_for(role, profile(stored).model_dump(mode="json"))


def answer_to_writer(role: Role, stored: StoredUser, sent: Mapping[str, Any]) -> dict[str, Any]:
    """A profile as the answer to a write.

    An integrator writes and reads nothing of people: it sees what its own request carried, as it is stored now,
    and the id and times; so a change never discloses the rest.
    """
    document = profile(stored).model_dump(mode="json")
    if sees_people(role):
        return document
    return {name: document[name] for name in _ALWAYS} | {
        name: _only(document[name], value) for name, value in sent.items() if name in document
    }


def _only(value: Any, sent: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: value.get(name) for name in sent or {}}


def etag(role: Role, stored: StoredUser) -> str:
    """The entity tag of a profile as a role reads it, or as a write answers it."""
    if sees_people(role):
        return _tag(stored, "full", _digest(stored.activity))
    if role is Role.INTEGRATOR:
        return _tag(stored, "written")
    return _tag(stored, "masked", _digest(stored.activity))


def etags(stored: StoredUser) -> set[str]:
    """The entity tags of a profile in all its views, any of which a change may name."""
    return {etag(role, stored) for role in Role}


def _tag(stored: StoredUser, *parts: str) -> str:
    born = int(stored.created_at.timestamp() * 1_000_000)
    return strong("-".join((str(stored.version), f"{born:x}", *parts)))


def _digest(activity: Activity) -> str:
    """Of what events have made. The score isn't in it: it fades from day to day, and a change that names a tag
    must not be refused for that."""
    shown = (_behavior(activity, None), _transactions(activity, None))
    return hashlib.sha256(b"".join(part.model_dump_json().encode() for part in shown)).hexdigest()[:16]
