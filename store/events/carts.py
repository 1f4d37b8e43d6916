"""The content of a person's cart, read from the log."""

from __future__ import annotations

import logging
from datetime import timedelta

from sqlalchemy import Interval, bindparam, func
from sqlmodel import col

from models.rules.carts import CART_EVENTS, is_empty
from models.tables.events import Event
from models.vocabulary import Basis
from privacy.encryption import DataKey, DecryptionError
from store.connection import Connection
from store.statements import one_of, select, statement

logger = logging.getLogger("perennial.store")

REMEMBERED = timedelta(days=30)
"""Items that were added longer ago don't count."""
_MOST_EVENTS = 1000

_LATEST = statement(
    select(col(Event.event_id), col(Event.event_type), col(Event.body))
    .where(
        col(Event.user_id) == bindparam("user_id"),
        col(Event.timestamp) >= func.now() - bindparam("remembered", type_=Interval()),
        one_of(col(Event.event_type), "types"),
        col(Event.basis) == Basis.CONSENT.value,
    )
    # A clock that is ahead counts up to the receipt, as for exits.
    .order_by(
        func.least(col(Event.timestamp), col(Event.received_at)).desc(),
        col(Event.timestamp).desc(),
        col(Event.sequence).desc(),
    )
    .limit(_MOST_EVENTS)
)


async def cart_is_empty(connection: Connection, key: DataKey) -> bool:
    """Whether the cart of the key's user is empty now; False for too many events to tell, or a damaged one.

    Events that were stored without consent don't count.
    """
    rows = await _LATEST.fetch(connection, user_id=key.subject, remembered=REMEMBERED, types=list(CART_EVENTS))
    if len(rows) == _MOST_EVENTS:
        return False
    try:
        bodies = [key.decrypt_json("events.body", row["body"], row["event_id"]) or {} for row in reversed(rows)]
    except DecryptionError as error:
        logger.error("a cart counts as filled: %s", error, extra={"user_id": key.subject})
        return False
    types = [row["event_type"] for row in reversed(rows)]
    return is_empty(
        (event_type, body.get("event_properties") or {}) for event_type, body in zip(types, bodies, strict=True)
    )
