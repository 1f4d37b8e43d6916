"""The content of a person's cart, from events.

An item is known by its `product_id`, else by its `product`. All items without either count as one item. Without a
`quantity` an event is about one piece. So a removal whose item or quantity doesn't fit leaves the cart as it is
known: not empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from models.rules.folding import PURCHASE, id_text

CART_ADD = "transaction.cart_add"
CART_REMOVE = "transaction.cart_remove"
CART_EVENTS = (CART_ADD, CART_REMOVE, PURCHASE)


def is_empty(events: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether a cart is empty after events, given as (type, properties) in their order. A purchase empties it."""
    cart: Counter[tuple[str, str]] = Counter()
    for event_type, properties in events:
        if event_type == PURCHASE:
            cart.clear()
        elif event_type == CART_ADD:
            cart[_item(properties)] += _quantity(properties)
        elif event_type == CART_REMOVE:
            item = _item(properties)
            cart[item] = max(cart[item] - _quantity(properties), 0)
    return not any(cart.values())


def _item(properties: Mapping[str, Any]) -> tuple[str, str]:
    for name in ("product_id", "product"):
        if properties.get(name) is not None:
            return name, id_text(properties[name])
    return "", ""


def _quantity(properties: Mapping[str, Any]) -> int:
    quantity = properties.get("quantity", 1)
    return int(quantity) if isinstance(quantity, int | float) else 1
