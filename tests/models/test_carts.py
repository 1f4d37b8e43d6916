"""When a cart counts as empty."""

from __future__ import annotations

from typing import Any

import pytest

from models.rules.carts import CART_ADD, CART_REMOVE, is_empty
from models.rules.folding import PURCHASE

Events = list[tuple[str, dict[str, Any]]]


def add(product: Any = "p-1", **properties: Any) -> tuple[str, dict[str, Any]]:
    """An item is put into the cart."""
    return CART_ADD, {"product_id": product, **properties}


def remove(product: Any = "p-1", **properties: Any) -> tuple[str, dict[str, Any]]:
    """An item is taken out of the cart."""
    return CART_REMOVE, {"product_id": product, **properties}


BARE_ADD: tuple[str, dict[str, Any]] = (CART_ADD, {})
BARE_REMOVE: tuple[str, dict[str, Any]] = (CART_REMOVE, {})


@pytest.mark.parametrize(
    ("events", "empty"),
    [
        ([], True),
        ([add()], False),
        ([add(), remove()], True),
        ([add(), add(), remove()], False),
        ([add(), add(), remove(), remove()], True),
        ([add(quantity=3), remove(quantity=2)], False),
        ([add(quantity=3), remove(quantity=2), remove()], True),
        ([add(quantity=2), remove(quantity=5)], True),
        ([add(), remove(), add()], False),
        ([remove(), add()], False),
        ([add("p-1"), add("p-2"), remove("p-1")], False),
        ([add("p-1"), add("p-2"), remove("p-2"), remove("p-1")], True),
        ([add(quantity=0)], True),
        ([add(7), remove("7")], True),
        ([add(7.0), remove(7)], True),
        ([(CART_ADD, {"product": "Shoe"}), (CART_REMOVE, {"product": "Shoe"})], True),
        ([BARE_ADD, BARE_REMOVE], True),
        # What doesn't fit leaves something in the cart.
        ([add("p-1"), BARE_REMOVE], False),
        ([BARE_ADD, remove("p-1")], False),
        ([add("p-1"), (CART_REMOVE, {"product": "p-1"})], False),
        ([add(quantity=2), remove()], False),
        # A purchase takes everything.
        ([add("p-1"), add("p-2"), (PURCHASE, {})], True),
        ([add("p-1"), (PURCHASE, {}), add("p-2"), remove("p-2")], True),
        ([add("p-1"), (PURCHASE, {}), add("p-2"), remove("p-1")], False),
    ],
)
def test_a_cart_is_empty_once_all_that_was_added_is_gone(events: Events, empty: bool) -> None:
    assert is_empty(events) is empty
