"""Verifies the audit log against its checkpoints.

Each checkpoint must be unchanged, and must follow the previous one by an hour. The rows of its hour must give its
digest. An hour may be empty instead if the newest checkpoint lets it expire. That checkpoint is verified too, and
so is the expiry limit in it.

Two changes aren't detected:

- a change in an hour that has no checkpoint yet,
- deletion of the last checkpoints together with their rows, unless the caller gives a previously exported head.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from privacy.audit_chain import GENESIS, ChainBrokenError, Checkpoint, CheckpointKey
from store.audit import checkpoints
from store.audit.checkpoints import HOUR
from store.connection import Connection

_PAGE = 1000
OVERDUE = timedelta(hours=2)
"""An hour must have a checkpoint within this time after its end."""


@dataclass(frozen=True)
class Verified:
    """The numbers of hours and rows that match their checkpoints."""

    hours: int
    rows: int
    expired_hours: int
    newest: Checkpoint | None


async def verify(connection: Connection, key: CheckpointKey, expected_head: bytes | None = None) -> Verified:
    """Verify the whole log, in a transaction. Raises :class:`ChainBrokenError`, which names the first bad hour."""
    before: Checkpoint | None = None
    hours = rows = expired = 0
    missing_head = expected_head
    while page := await checkpoints.page(connection, after=before.hour if before else None, limit=_PAGE):
        for checkpoint in page:
            _check_link(key, before, checkpoint)
            kept = await _check_rows(connection, checkpoint)
            hours, rows, expired = hours + 1, rows + (checkpoint.rows if kept else 0), expired + (not kept)
            missing_head = None if checkpoint.head == missing_head else missing_head
            before = checkpoint
    if missing_head is not None:
        raise ChainBrokenError(
            f"The chain doesn't hold the expected head {missing_head.hex()}: its end was cut off or replaced."
        )
    await _check_edges(connection, before)
    return Verified(hours, rows, expired, before)


def _check_link(key: CheckpointKey, before: Checkpoint | None, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint is unchanged, and directly follows the previous one."""
    if before is not None and checkpoint.hour != before.hour + HOUR:
        raise ChainBrokenError(f"The checkpoint of the hour {_named(before.hour + HOUR)} is missing.")
    if checkpoint.key_check != key.check_value:
        raise ChainBrokenError(
            f"The checkpoint of the hour {_named(checkpoint.hour)} "
            "was made with another key than this key file's, or changed."
        )
    if not key.fits(checkpoint):
        raise ChainBrokenError(f"The checkpoint of the hour {_named(checkpoint.hour)} has been changed.")
    if checkpoint.previous != (before.head if before else GENESIS):
        place = "is not the first one" if before is None else f"doesn't follow that of {_named(before.hour)}"
        raise ChainBrokenError(
            f"The checkpoint of the hour {_named(checkpoint.hour)} {place}: earlier checkpoints were removed."
        )


async def _check_rows(connection: Connection, checkpoint: Checkpoint) -> bool:
    """Check an hour's rows against its checkpoint; False if they have expired."""
    found = await checkpoints.digest(connection, checkpoint.hour)
    if found.rows == checkpoint.rows and found.value() == checkpoint.digest:
        return True
    if found.rows == 0 and await _may_have_expired(connection, checkpoint):
        return False
    difference = (
        "its rows are not those that were checkpointed"
        if found.rows == checkpoint.rows
        else f"{checkpoint.rows} rows were checkpointed, {found.rows} are there"
    )
    raise ChainBrokenError(f"The audit log of the hour {_named(checkpoint.hour)} has been changed: {difference}.")


async def _may_have_expired(connection: Connection, checkpoint: Checkpoint) -> bool:
    newest = await checkpoints.last(connection)
    return newest is not None and checkpoint.hour + HOUR <= newest.expires_before


async def _check_edges(connection: Connection, newest: Checkpoint | None) -> None:
    """Check that no row is older than the chain, and that no hour's checkpoint is overdue."""
    oldest = await checkpoints.oldest_row(connection)
    if newest is None:
        since = oldest
    else:
        first = (await checkpoints.page(connection, after=None, limit=1))[0]
        if oldest is not None and oldest < first.hour:
            raise ChainBrokenError(
                f"The audit log of the hour {_named(oldest)} is older than the first checkpoint: it was added."
            )
        since = newest.hour + HOUR
    if since is not None and await checkpoints.is_overdue(connection, since, OVERDUE):
        raise ChainBrokenError(
            f"The hour {_named(since)} should be checkpointed by now: "
            "its checkpoint was removed, or no worker is running."
        )


def _named(hour: datetime) -> str:
    return f"{hour:%Y-%m-%d %H:00} UTC"
