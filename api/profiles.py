"""Profiles as each role sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.etags import strong
from api.masking import masked_profile, sees_people
from models.vocabulary import Purpose, Role
from models.wire.users import Behavior, Consents, Demographics, Transactions, UserProfile
from store.profile_rows import StoredUser

_VIEWS = ("full", "masked")
_ALWAYS = ("user_id", "created_at", "updated_at")


def profile(stored: StoredUser) -> UserProfile:
    """A profile in full. What is computed from events is at its defaults until there are any."""
    known = stored.profile
    profiling = known.consents_to(Purpose.PROFILING)
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
        behavior=Behavior(engagement_score=0.0 if profiling else None),
        transactions=Transactions(subscription_tier=known.subscription_tier),
        created_at=stored.created_at,
        updated_at=stored.updated_at,
    )


def seen_by(role: Role, stored: StoredUser) -> dict[str, Any]:
    """A profile as a role reads it: masked, unless the role sees people."""
    document = profile(stored).model_dump(mode="json")
    return document if sees_people(role) else masked_profile(document)


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
    """The entity tag of a profile as a role reads it."""
    return _tag(stored, "full" if sees_people(role) else "masked")


def etags(stored: StoredUser) -> set[str]:
    """The entity tags of a profile in all its views, any of which a change may name: they have one version."""
    return {_tag(stored, view) for view in _VIEWS}


def _tag(stored: StoredUser, view: str) -> str:
    born = int(stored.created_at.timestamp() * 1_000_000)
    return strong(f"{stored.version}-{born:x}-{view}")
