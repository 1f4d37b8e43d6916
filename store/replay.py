"""Folding a single event that had been set aside."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import EventGone, StillUnusable
from models.rules.folding import Projection
from models.rules.triggers import WorkflowTrigger
from privacy.sealing import CannotOpen, Sealer
from store import closings, consent_lock, data_keys, log, outbox, poison, projection
from store.connection import Connection
from store.poison import StoredPoison


async def replay(
    connection: Connection, sealer: Sealer, triggers: Sequence[WorkflowTrigger], poison_id: str
) -> StoredPoison:
    """Fold an event that was set aside, exactly once, in the caller's transaction.

    Raises :class:`StillUnusable` where it fails again, :class:`EventGone`, :class:`models.errors.UserErased`,
    and what :func:`store.poison.settle` raises; the caller then rolls back, and it stays open.
    """
    settled = await poison.settle(connection, poison_id, "replayed")
    await closings.hold(connection, [settled.user_id])
    await consent_lock.share(connection, [settled.user_id])
    try:
        key = await data_keys.require(connection, sealer, settled.user_id)
    except CannotOpen as error:
        raise StillUnusable(type(error).__name__) from None
    logged = await log.find_event(connection, settled.user_id, settled.timestamp, settled.event_id)
    if logged is None:
        raise EventGone
    event = logged.opened_with(key)
    folded, keys = Projection(), {settled.user_id: key}
    try:
        folded.add(event)
    except Exception as error:  # noqa: BLE001 - whatever an event raises is its own fault
        raise StillUnusable(type(error).__name__) from None
    try:
        await projection.write(connection, folded, keys)
        await outbox.enqueue(connection, [event], triggers, keys)
    except Exception as error:
        if poison.is_of_the_event(error):
            raise StillUnusable(type(error).__name__) from None
        raise
    return settled
