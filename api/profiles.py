"""Profiles as each role sees them, their entity tags, and batches of them.

An entity tag covers its representation. Admins, operators and analysts also see values computed from events, so
these values change their tags.

An integrator may not read people. So its answers are the same whether or not a write changed the profile.
Otherwise it could test guesses. Its tag is a keyed digest, and changes with each of its writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from api.audit import attribute_names
from api.masking import masked_profile
from api.parsing import crowd_errors
from models.errors import FieldError
from models.rules.activity import MOST_CURRENCIES, MOST_FEATURES, Activity
from models.rules.customer_value import customer_lifetime_value, purchase_frequency
from models.rules.money import average, format_amount
from models.schemas.fields import UnusableItem, is_user_id
from models.schemas.users import (
    Behavior,
    Consents,
    Demographics,
    ItemError,
    Transactions,
    UserBatchAnswer,
    UserBatchResult,
    UserProfile,
    UserUpsert,
)
from models.schemas.validation import item_errors
from models.vocabulary import Purpose, Role
from privacy.encryption import Cipher
from privacy.masking import reads_people, sees_personal_data
from store.pacing import each
from store.users.batches import UpsertResult
from store.users.rows import StoredUser

AUDITED_FIELDS = (
    *(UserProfile.model_fields.keys() - {"demographics"}),
    *(f"demographics.{name}" for name in Demographics.model_fields),
)
"""The names of a profile's attributes, which an audit row has for a read of the profile."""
_ALWAYS = ("user_id", "created_at", "updated_at")


def full_profile(stored: StoredUser, expected_years: Decimal) -> UserProfile:
    """A profile without masks. ``expected_years`` is the setting `clv_expected_years`."""
    known, activity = stored.profile, stored.activity
    now = datetime.now(UTC)
    profiling = known.consents_to(Purpose.PROFILING)
    return UserProfile(
        user_id=known.user_id,
        email=known.email,
        name=known.name,
        signup_date=known.signup_date,
        account_status=known.account_status,
        lifecycle_stage=known.lifecycle_stage,
        lifecycle_stage_pinned=known.lifecycle_stage_pinned,
        demographics=Demographics(**known.shown_demographics(now.date())),
        privacy_preferences=dict(known.privacy_preferences),
        consents=Consents(**known.consents),
        behavior=Behavior(
            session_count=activity.session_count,
            last_session_date=activity.last_session_date,
            total_session_duration=activity.total_session_seconds,
            feature_usage_map=activity.shown_features,
            feature_usage_truncated=len(activity.features) > MOST_FEATURES,
            engagement_score=activity.engagement_score(now, profiling=profiling),
        ),
        transactions=_transactions(activity, known.subscription_tier, now, expected_years),
        created_at=stored.created_at,
        updated_at=stored.updated_at,
    )


def _transactions(
    activity: Activity, subscription_tier: str | None, now: datetime, expected_years: Decimal
) -> Transactions:
    main = activity.main_total
    if main is None:
        return Transactions(subscription_tier=subscription_tier)
    return Transactions(
        total_purchases=activity.total_purchases,
        total_revenue=format_amount(main.revenue),
        average_order_value=average(main.revenue, main.purchases),
        currency=main.currency,
        revenue_by_currency={total.currency: format_amount(total.revenue) for total in activity.shown_totals},
        revenue_truncated=len(activity.totals) > MOST_CURRENCIES,
        last_purchase_date=activity.last_purchase_at,
        subscription_tier=subscription_tier,
        customer_lifetime_value=customer_lifetime_value(activity, now, expected_years),
        purchase_frequency=purchase_frequency(activity, now),
    )


def masked_for(role: Role, profile: UserProfile) -> dict[str, Any]:
    """A profile as a role reads it: masked, unless the role sees personal data."""
    document = profile.model_dump(mode="json")
    return document if sees_personal_data(role) else masked_profile(document)


def profile_for_writer(
    role: Role, stored: StoredUser, profile: UserProfile, sent: Mapping[str, Any]
) -> dict[str, Any]:
    """A profile as the answer to a write.

    An integrator may not read profiles. The response to an integrator has only the attributes of the request, as
    stored now, `user_id`, `created_at` and `updated_at`, which is then the time of the write. It has the stored
    age: a computed one would tell of a date of birth that another key has sent.
    """
    document = profile.model_dump(mode="json")
    if reads_people(role):
        return document
    document["demographics"]["age"] = stored.profile.demographics.get("age")
    return {name: document[name] for name in _ALWAYS} | {
        name: _only(document[name], value) for name, value in sent.items() if name in document
    }


def _only(value: Any, sent: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: value.get(name) for name in sent or {}}


def etag(cipher: Cipher, role: Role, stored: StoredUser, profile: UserProfile) -> str:
    """The entity tag of a profile as a role reads it, or as the answer to an integrator's write."""
    created = int(stored.created_at.timestamp() * 1_000_000)
    version = f"{stored.version}-{created:x}"
    if not reads_people(role):
        written = f"{profile.user_id} {version} {stored.writes}"
        return f'"{cipher.fingerprint(b"etag", written.encode()).hex()[:32]}"'
    # Without the figures and the age that change with time alone: If-Match must not fail for that.
    behavior = profile.behavior.model_dump_json(exclude={"engagement_score"})
    transactions = profile.transactions.model_dump_json(exclude={"customer_lifetime_value", "purchase_frequency"})
    digest = hashlib.sha256((behavior + transactions).encode()).hexdigest()[:16]
    return f'"{version}-{"full" if sees_personal_data(role) else "masked"}-{digest}"'


def etags(cipher: Cipher, caller: Role, stored: StoredUser, profile: UserProfile) -> set[str]:
    """The entity tags that a change may name: those of all views, but for an integrator only its own."""
    return {etag(cipher, role, stored, profile) for role in (Role if reads_people(caller) else [caller])}


@dataclass(frozen=True)
class CheckedItem:
    """An item of a batch: its valid fields, or the errors for which it is rejected."""

    user_id: str | None
    patch: Mapping[str, Any] | None
    errors: Sequence[FieldError] = ()


async def check_items(items: Sequence[Any], read: Callable[[Any], Mapping[str, Any]]) -> list[CheckedItem]:
    """Validate each item on its own. ``read`` returns its fields, or raises ValidationError."""
    return await each(lambda item: _check(item, read), items)


def read_upsert(item: Any) -> Mapping[str, Any]:
    """The attributes that an item of `POST /users/batch` carries."""
    return UserUpsert.model_validate(item).model_dump(exclude_unset=True)


def _check(item: Any, read: Callable[[Any], Mapping[str, Any]]) -> CheckedItem:
    if isinstance(item, UnusableItem):
        return CheckedItem(_usable_id(item.item), None, item.errors)
    if errors := crowd_errors(item):
        return CheckedItem(_usable_id(item), None, errors)
    try:
        patch = read(item)
    except ValidationError as error:
        return CheckedItem(_usable_id(item), None, item_errors(error))
    return CheckedItem(patch["user_id"], patch)


def _usable_id(item: Any) -> str | None:
    """The id of a rejected item, if it has one that may be repeated."""
    user_id = item.get("user_id") if isinstance(item, dict) else None
    return user_id if isinstance(user_id, str) and is_user_id(user_id) else None


_TOLD_TO_READERS: Any = {"unchanged": True, "results": {"__all__": {"changed"}}}


def batch_document(role: Role, answer: UserBatchAnswer) -> dict[str, Any]:
    """The answer to a batch as a role sees it. Only a role that reads people learns what has changed."""
    return answer.model_dump(mode="json", exclude=None if reads_people(role) else _TOLD_TO_READERS)


def batch_answer(checked: Sequence[CheckedItem], outcomes: Sequence[UpsertResult]) -> UserBatchAnswer:
    """The answer to a batch. ``outcomes`` are those of the valid items, in their order."""
    remaining = iter(outcomes)
    results = [
        _result(
            index, item, next(remaining) if item.patch is not None else UpsertResult(errors=tuple(item.errors))
        )
        for index, item in enumerate(checked)
    ]
    statuses = [result.status for result in results]
    return UserBatchAnswer(
        created=statuses.count("created"),
        updated=statuses.count("updated"),
        rejected=statuses.count("rejected"),
        unchanged=sum(result.status == "updated" and not result.changed for result in results),
        results=results,
    )


def _result(index: int, item: CheckedItem, outcome: UpsertResult) -> UserBatchResult:
    status = "rejected" if outcome.errors else "created" if outcome.created else "updated"
    errors = [ItemError(**vars(error.with_prefix(f"/users/{index}"))) for error in outcome.errors]
    return UserBatchResult(
        index=index, user_id=item.user_id, status=status, changed=outcome.changed, errors=errors
    )


def fields_of(checked: Iterable[CheckedItem]) -> set[str]:
    """The names of the attributes that the valid items of a batch carry, for the audit log."""
    return {name for item in checked if item.patch is not None for name in attribute_names(item.patch)}
