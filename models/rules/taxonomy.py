"""The standard event types, each with the schema of its properties.

Properties that a schema doesn't name are stored unchecked. Few properties are required: the feature of a click,
and order id, amount and currency of a purchase or refund. No total needs the order id, but only it links a refund
to its purchase. It can't be added to a stored event later. Senders without order ids send another id of the sale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.rules.event_types import CURRENCY, EventType
from models.rules.stages import STAGE_CHANGED, StageCause
from models.vocabulary import LifecycleStage

_Schema = Mapping[str, Any]

_WORD: _Schema = {"type": "string", "minLength": 1, "maxLength": 128}
_TEXT: _Schema = {"type": "string", "maxLength": 1024}
_ADDRESS: _Schema = {"type": "string", "maxLength": 2048}
_ID: _Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 128},
        {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1},
    ],
    "description": "An id of 1 to 128 characters, or a whole number of 63 bits.",
    "examples": ["o-1042"],
}
_MONEY: _Schema = {
    "anyOf": [
        {
            "type": "string",
            "pattern": r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?$",
            "description": "A decimal number without separators, of at most 12 digits and six decimal places.",
            "examples": ["29.90"],
        },
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1_000_000_000_000},
    ],
    "description": "An amount of zero or more, as a decimal string or a number with at most six decimal places.",
    "examples": ["29.90"],
}
_CURRENCY: _Schema = {
    "type": "string",
    "format": CURRENCY,
    "description": "An ISO 4217 code in capitals.",
    "examples": ["EUR"],
}
_COUNT: _Schema = {"type": "integer", "minimum": 0, "maximum": 1_000_000_000}
_SECONDS: _Schema = {"type": "number", "minimum": 0, "maximum": 31_536_000}
_NAMES: _Schema = {"type": "array", "items": _WORD, "maxItems": 100}
_ITEMS: _Schema = {"type": "array", "items": {"type": "object"}, "maxItems": 1000}


def _standard(
    event_type: str,
    description: str,
    properties: Mapping[str, _Schema],
    *,
    required: tuple[str, ...] = (),
    pii: tuple[str, ...] = (),
    dimensions: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
) -> EventType:
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    money = tuple(name for name, described in properties.items() if described is _MONEY)
    return EventType(event_type, description, schema, pii, dimensions, money, words, standard=True)


_USER = (
    _standard(
        "user.signup",
        "A user has signed up.",
        {"method": _WORD, "plan": _WORD, "campaign": _WORD, "referral_code": _WORD, "email": _TEXT, "name": _TEXT},
        pii=("/email", "/name", "/referral_code"),
        dimensions=("method", "plan", "campaign"),
    ),
    _standard(
        "user.login",
        "A user has logged in.",
        {"method": _WORD, "success": {"type": "boolean"}, "ip_address": _WORD},
        pii=("/ip_address",),
        dimensions=("method", "success"),
    ),
    _standard("user.logout", "A user has logged out.", {"reason": _WORD}, dimensions=("reason",)),
    _standard(
        "user.profile_update",
        "A user has changed the profile. `changes` updates it, like the body of `PATCH /users/{user_id}`.",
        {"fields": _NAMES, "changes": {"type": "object"}},
        pii=("/changes",),
    ),
    _standard(
        "user.account_deletion",
        "A user has closed the account.",
        {"reason": _WORD, "feedback": _TEXT},
        pii=("/feedback",),
        dimensions=("reason",),
    ),
)
_ENGAGEMENT = (
    _standard(
        "engagement.page_view",
        "A user has looked at a page.",
        {"page": _ADDRESS, "url": _ADDRESS, "path": _ADDRESS, "title": _TEXT, "duration": _SECONDS},
        pii=("/page", "/url", "/path", "/title"),
    ),
    _standard(
        "engagement.feature_click",
        "A user has used a feature.",
        {"feature": _WORD, "element": _WORD},
        required=("feature",),
        dimensions=("feature",),
        words=("feature",),
    ),
    _standard(
        "engagement.content_view",
        "A user has looked at content.",
        {"content_id": _ID, "content_type": _WORD, "title": _TEXT, "duration": _SECONDS},
        pii=("/title",),
        dimensions=("content_type",),
    ),
    _standard(
        "engagement.search",
        "A user has searched.",
        {"query": _TEXT, "results": _COUNT},
        pii=("/query",),
    ),
    _standard(
        "engagement.share",
        "A user has shared something.",
        {"content_id": _ID, "content_type": _WORD, "channel": _WORD, "recipient": _TEXT},
        pii=("/recipient",),
        dimensions=("content_type", "channel"),
    ),
)
_LINE: Mapping[str, _Schema] = {
    "product_id": _ID,
    "product": _WORD,
    "category": _WORD,
    "quantity": _COUNT,
    "price": _MONEY,
    "amount": _MONEY,
    "currency": _CURRENCY,
}
_ORDER: Mapping[str, _Schema] = {
    "order_id": _ID,
    "amount": _MONEY,
    "currency": _CURRENCY,
    "quantity": _COUNT,
    "items": _ITEMS,
}
_STAGE: _Schema = {"type": "string", "enum": [each.value for each in LifecycleStage]}
_LIFECYCLE = (
    _standard(
        STAGE_CHANGED,
        "A user's lifecycle stage has changed. The platform alone records it.",
        {"from": _STAGE, "to": _STAGE, "cause": {"type": "string", "enum": [each.value for each in StageCause]}},
        required=("from", "to", "cause"),
        dimensions=("from", "to", "cause"),
    ),
)
_TRANSACTION = (
    _standard(
        "transaction.cart_add", "Something was put into the cart.", _LINE, dimensions=("category", "currency")
    ),
    _standard(
        "transaction.cart_remove",
        "Something was taken out of the cart.",
        _LINE,
        dimensions=("category", "currency"),
    ),
    _standard(
        "transaction.checkout_start",
        "A checkout has begun.",
        {**_ORDER, "cart_id": _ID},
        dimensions=("currency",),
    ),
    _standard(
        "transaction.purchase_complete",
        "An order was paid.",
        {**_ORDER, "payment_method": _WORD, "coupon": _WORD},
        required=("order_id", "amount", "currency"),
        dimensions=("currency", "payment_method"),
    ),
    _standard(
        "transaction.refund",
        "An order, or a part of it, was paid back.",
        {**_ORDER, "reason": _TEXT},
        required=("order_id", "amount", "currency"),
        pii=("/reason",),
        dimensions=("currency",),
    ),
)

STANDARD: Mapping[str, EventType] = {
    standard.event_type: standard for standard in (*_USER, *_ENGAGEMENT, *_TRANSACTION, *_LIFECYCLE)
}
