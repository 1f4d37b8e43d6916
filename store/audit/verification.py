"""Checking the audit log against its checkpoints.

From the first checkpoint on, each must follow the one before, an hour later, and be as it was made; and each hour's rows
must be those that it covers. Only an hour that the newest checkpoint lets expire may be empty instead. Since the walk
ends with the newest checkpoint, that permission is checked as well.

What can't be found here: a change within an hour that isn't checkpointed yet, and an end of the chain that was cut off
together with its rows. Against the second one a head that was exported before is given, and must be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from privacy.audit_chain import GENESIS, ChainBrokenError, Checkpoint, CheckpointKey
from store.audit import checkpoints
from store.audit.checkpoints import HOUR
from store.connection import Connection

_SEALS_A_PAGE = 1000
OVERDUE = timedelta(hours=2)
"""How long after its end an hour may be without its checkpoint."""


@dataclass(frozen=True)
class Verified:
    """What was found to be as it was checkpointed."""

    hours: int
    rows: int
    expired_hours: int
    newest: Checkpoint | None


async def verify(connection: Connection, key: CheckpointKey, expected_head: bytes | None = None) -> Verified:
    """Check the whole log. To be called in a transaction. Raises :class:`ChainBrokenError`."""
    before: Checkpoint | None = None
    hours = rows = expired = 0
    awaited = expected_head
    while page := await checkpoints.page(connection, after=before.hour if before else None, limit=_SEALS_A_PAGE):
        for checkpoint in page:
            _check_link(key, before, checkpoint)
            kept = await _check_rows(connection, checkpoint)
            hours, rows, expired = hours + 1, rows + (checkpoint.rows if kept else 0), expired + (not kept)
            awaited = None if checkpoint.head == awaited else awaited
            before = checkpoint
    if awaited is not None:
        raise ChainBrokenError(
            f"The chain doesn't hold the expected head {awaited.hex()}: its end was cut off or replaced."
        )
    await _check_edges(connection, before)
    return Verified(hours, rows, expired, before)


def _check_link(key: CheckpointKey, before: Checkpoint | None, checkpoint: Checkpoint) -> None:
    """That a checkpoint is as it was made, and the very next one after the one before."""
    if before is not None and checkpoint.hour != before.hour + HOUR:
        raise ChainBrokenError(f"The checkpoint of the hour {_named(before.hour + HOUR)} is missing.")
    if checkpoint.key_check != key.check_value:
        raise ChainBrokenError(
            f"The checkpoint of the hour {_named(checkpoint.hour)} was made with another key than this key file's, or changed."
        )
    if not key.fits(checkpoint):
        raise ChainBrokenError(f"The checkpoint of the hour {_named(checkpoint.hour)} has been changed.")
    if checkpoint.previous != (before.head if before else GENESIS):
        place = "is not the first one" if before is None else f"doesn't follow that of {_named(before.hour)}"
        raise ChainBrokenError(
            f"The checkpoint of the hour {_named(checkpoint.hour)} {place}: what came before was removed."
        )


async def _check_rows(connection: Connection, checkpoint: Checkpoint) -> bool:
    """That the rows of an hour are those that were checkpointed; whether they are still there."""
    found = await checkpoints.digest(connection, checkpoint.hour)
    if found.rows == checkpoint.rows and found.value() == checkpoint.digest:
        return True
    if found.rows == 0 and await _may_have_expired(connection, checkpoint):
        return False
    what = (
        "its rows are not those that were checkpointed"
        if found.rows == checkpoint.rows
        else f"{checkpoint.rows} rows were checkpointed, {found.rows} are there"
    )
    raise ChainBrokenError(f"The audit log of the hour {_named(checkpoint.hour)} has been changed: {what}.")


async def _may_have_expired(connection: Connection, checkpoint: Checkpoint) -> bool:
    newest = await checkpoints.last(connection)
    return newest is not None and checkpoint.hour + HOUR <= newest.expires_before


async def _check_edges(connection: Connection, newest: Checkpoint | None) -> None:
    """That no row is older than the chain, and no hour has waited too long for its checkpoint."""
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
    if since is not None and await checkpoints.overdue(connection, since, OVERDUE):
        raise ChainBrokenError(
            f"The hour {_named(since)} should be checkpointed by now: its checkpoint was removed, or no worker is running."
        )


def _named(hour: datetime) -> str:
    return f"{hour:%Y-%m-%d %H:00} UTC"
