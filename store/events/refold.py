"""Folding a single event that had been set aside."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import EventGoneError, StillUnusableError
from models.rules.folding import Projection
from models.rules.triggers import WorkflowTrigger
from privacy.encryption import Cipher, DecryptionError
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.events import log, poison, projection
from store.events.poison import StoredPoison
from store.users import closures, data_keys


async def replay(
    connection: Connection, cipher: Cipher, triggers: Sequence[WorkflowTrigger], poison_id: str
) -> StoredPoison:
    """Fold an event that was set aside, exactly once, in the caller's transaction.

    Raises :class:`StillUnusableError` where it fails again, :class:`EventGoneError`, :class:`models.errors.UserErasedError`,
    and what :func:`store.events.poison.settle` raises; the caller then rolls back, and it stays open.
    """
    settled = await poison.settle(connection, poison_id, "replayed")
    await closures.hold(connection, [settled.user_id])
    await locks.share(connection, [settled.user_id])
    try:
        key = await data_keys.require(connection, cipher, settled.user_id)
    except DecryptionError as error:
        raise StillUnusableError(type(error).__name__) from None
    logged = await log.find_event(connection, settled.user_id, settled.timestamp, settled.event_id)
    if logged is None:
        raise EventGoneError
    event = logged.opened_with(key)
    folded, keys = Projection(), {settled.user_id: key}
    try:
        folded.add(event)
    except Exception as error:  # noqa: BLE001 - whatever an event raises is its own fault
        raise StillUnusableError(type(error).__name__) from None
    try:
        await projection.write(connection, folded, keys)
        await outbox.enqueue(connection, [event], triggers, keys)
    except Exception as error:
        if poison.is_of_the_event(error):
            raise StillUnusableError(type(error).__name__) from None
        raise
    return settled
