"""Schemas of `/users`. docs/api.md explains the rules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, StrictBool
from pydantic_core import PydanticCustomError

from models.schemas.common import Page
from models.schemas.fields import (
    MAX_AGE,
    City,
    Country,
    Email,
    Language,
    Name,
    PastDate,
    RequestSchema,
    ResponseSchema,
    ShortText,
    Timestamp,
    TimeZone,
    UserId,
    Word,
    omittable,
)
from models.vocabulary import AccountStatus, LifecycleStage

MAX_BATCH = 1000


def _refuse(_: object) -> None:
    raise PydanticCustomError("read_only", "is computed and can't be set")


def _refuse_id(_: object) -> None:
    raise PydanticCustomError("read_only", "can't be changed")


def _refuse_consents(_: object) -> None:
    raise PydanticCustomError(
        "read_only", "can't be changed by an event: send PUT /users/{user_id}/consents/{purpose}"
    )


ReadOnly = Annotated[Any, AfterValidator(_refuse), Field(json_schema_extra={"readOnly": True})]
Status = Annotated[AccountStatus, Field(strict=False)]
Stage = Annotated[LifecycleStage, Field(strict=False)]


class DemographicsInput(RequestSchema):
    """Stored only with the consent `data_collection`. Null removes an attribute."""

    age: Annotated[int, Field(ge=0, le=MAX_AGE)] | None = Field(
        default=None, description="Stored as sent. A profile with a date of birth shows the age of today instead."
    )
    date_of_birth: PastDate | None = None
    gender: ShortText | None = None
    country: Country | None = None
    city: City | None = None
    timezone: TimeZone | None = None
    language: Language | None = None
    device_type: ShortText | None = None


class PreferencesInput(RequestSchema):
    """`false` opts out: the attribute isn't stored, and stored values of it are removed."""

    age: StrictBool | None = None
    date_of_birth: StrictBool | None = None
    gender: StrictBool | None = None
    country: StrictBool | None = None
    city: StrictBool | None = None
    timezone: StrictBool | None = None
    language: StrictBool | None = None
    device_type: StrictBool | None = None


class ConsentsInput(RequestSchema):
    """The person's consents. Null is `false`."""

    data_collection: StrictBool | None = None
    profiling: StrictBool | None = None
    marketing: StrictBool | None = None
    third_party_sharing: StrictBool | None = None


class TransactionsInput(RequestSchema):
    """Only the tier can be set. The other attributes are computed from events."""

    subscription_tier: Word | None = None
    total_purchases: ReadOnly = None
    total_revenue: ReadOnly = None
    average_order_value: ReadOnly = None
    currency: ReadOnly = None
    revenue_by_currency: ReadOnly = None
    last_purchase_date: ReadOnly = None
    customer_lifetime_value: ReadOnly = None
    purchase_frequency: ReadOnly = None


class _Attributes(RequestSchema):
    lifecycle_stage_pinned: StrictBool | None = Field(
        default=None, description="`true`: workflows don't change the stage."
    )
    demographics: DemographicsInput | None = None
    privacy_preferences: PreferencesInput | None = None
    consents: ConsentsInput | None = None
    transactions: TransactionsInput | None = None
    behavior: ReadOnly = None
    created_at: ReadOnly = None
    updated_at: ReadOnly = None


class UserCreate(_Attributes):
    """A new profile: the six core attributes are required."""

    user_id: UserId
    email: Email
    name: Name
    signup_date: Timestamp
    account_status: Status
    lifecycle_stage: Stage


class UserPatch(_Attributes):
    """A JSON merge patch (RFC 7396). Missing attributes stay; null removes optional ones."""

    user_id: UserId = omittable()
    email: Email = omittable()
    name: Name = omittable()
    signup_date: Timestamp = omittable()
    account_status: Status = omittable()
    lifecycle_stage: Stage = omittable()


class UserChanges(UserPatch):
    """The `changes` of a `user.profile_update`: a patch without the id and without consents."""

    user_id: Annotated[Any, AfterValidator(_refuse_id)] = None
    consents: Annotated[Any, AfterValidator(_refuse_consents)] = None


class UserUpsert(UserPatch):
    """An item of a batch: creates a profile, or patches the existing one."""

    user_id: UserId


class UserBatch(RequestSchema):
    """Up to 1,000 profiles. The API checks each item separately and stores the valid ones."""

    items_field: ClassVar[str] = "users"

    users: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)] = Field(
        json_schema_extra={"items": {"$ref": "#/components/schemas/UserUpsert"}}
    )


class UserSearch(RequestSchema):
    """A search by e-mail address, ignoring case."""

    email: Email


class Demographics(ResponseSchema):
    """Demographic attributes; null if unknown or without consent."""

    age: int | str | None = Field(
        default=None,
        description="In full years today (UTC) if the date of birth is known, else as sent. A string if masked.",
    )
    date_of_birth: str | None = Field(default=None, examples=["1992-01-01"])
    gender: str | None = None
    country: str | None = None
    city: str | None = None
    timezone: str | None = None
    language: str | None = None
    device_type: str | None = None


class Behavior(ResponseSchema):
    """Figures computed from events. The defaults describe a person without events."""

    session_count: int = 0
    last_session_date: datetime | None = None
    total_session_duration: float = Field(default=0.0, description="Seconds.")
    feature_usage_map: dict[str, int] = Field(
        default_factory=dict, description="Uses of the 1,000 most used features; of equals, the first by name."
    )
    feature_usage_truncated: bool = Field(
        default=False,
        exclude_if=lambda truncated: not truncated,
        description="Present and true if there are others: `GET /users/{user_id}/features` lists all.",
    )
    engagement_score: float | None = Field(default=None, description="0 to 100; null without `profiling`.")


class FeatureUsageView(ResponseSchema):
    """The uses of one feature."""

    feature: str
    uses: int


class Transactions(ResponseSchema):
    """Figures computed from purchases. Amounts are decimal strings. Currencies are never added."""

    total_purchases: int = Field(default=0, description="In all currencies.")
    total_revenue: str = Field(default="0.00", description="Purchases minus refunds, in `currency`.")
    average_order_value: str | None = Field(default=None, description="In `currency`.")
    currency: str | None = Field(
        default=None, description="The one with the most purchases; of several, the one with the latest."
    )
    revenue_by_currency: dict[str, str] = Field(
        default_factory=dict,
        description="Purchases minus refunds, in the 200 currencies with the most purchases.",
        examples=[{"USD": "59.06"}],
    )
    revenue_truncated: bool = Field(
        default=False,
        exclude_if=lambda truncated: not truncated,
        description="Present and true if there are other currencies: `GET /users/{user_id}/export` has all.",
    )
    last_purchase_date: datetime | None = None
    subscription_tier: str | None = None
    customer_lifetime_value: str | None = Field(
        default=None,
        description="`average_order_value` · purchases a year · `PERENNIAL_CLV_EXPECTED_YEARS`, in `currency`.",
    )
    purchase_frequency: float | None = Field(
        default=None,
        description="Purchases per 30 days since the first one, over at least 30 days; in all currencies.",
    )


class Consents(ResponseSchema):
    """The person's consents by purpose; `false` if nothing was recorded."""

    data_collection: bool = False
    profiling: bool = False
    marketing: bool = False
    third_party_sharing: bool = False


class UserProfile(ResponseSchema):
    """A profile with its four groups of attributes."""

    user_id: str
    email: str
    name: str
    signup_date: datetime
    account_status: AccountStatus
    lifecycle_stage: LifecycleStage
    lifecycle_stage_pinned: bool
    demographics: Demographics
    privacy_preferences: dict[str, bool]
    consents: Consents
    behavior: Behavior
    transactions: Transactions
    created_at: datetime
    updated_at: datetime


UserPage = Page[UserProfile]


class ItemError(ResponseSchema):
    """Why an item was rejected. It never repeats the value."""

    pointer: str = Field(examples=["/users/3/email"])
    code: str = Field(examples=["invalid_email"])
    message: str


class UserBatchResult(ResponseSchema):
    """The result for one item."""

    index: int
    user_id: str | None = Field(description="Null if the item has no valid one.")
    status: str = Field(json_schema_extra={"enum": ["created", "updated", "rejected"]})
    changed: bool | None = Field(
        default=None,
        description="False if the profile was already equal to it. Left out for a key that may not read people.",
    )
    errors: list[ItemError]


class UserBatchAnswer(ResponseSchema):
    """The results for a batch."""

    created: int
    updated: int
    rejected: int
    unchanged: int | None = Field(
        default=None,
        description="Items of `updated` with `changed` false. Left out for a key that may not read people.",
    )
    results: list[UserBatchResult]


class TransactionView(ResponseSchema):
    """A purchase or refund, identified by its event."""

    event_id: str
    kind: str = Field(json_schema_extra={"enum": ["purchase", "refund"]})
    order_id: str | None
    amount: str = Field(description="A decimal, never negative.", examples=["29.53"])
    currency: str = Field(examples=["USD"])
    occurred_at: datetime
