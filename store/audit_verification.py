"""Checking the audit log against its seals.

From the first seal on, each must follow the one before, an hour later, and be as it was made; and each hour's rows
must be those that it covers. Only an hour that the newest seal lets expire may be empty instead. Since the walk
ends with the newest seal, that permission is checked as well.

What can't be found here: a change within an hour that isn't sealed yet, and an end of the chain that was cut off
together with its rows. Against the second one a head that was exported before is given, and must be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from privacy.audit_chain import GENESIS, ChainBroken, Seal, SealKey
from store import audit_seals
from store.audit_seals import HOUR
from store.connection import Connection

_SEALS_A_PAGE = 1000
OVERDUE = timedelta(hours=2)
"""How long after its end an hour may be without its seal."""


@dataclass(frozen=True)
class Verified:
    """What was found to be as it was sealed."""

    hours: int
    rows: int
    expired_hours: int
    newest: Seal | None


async def verify(connection: Connection, key: SealKey, expected_head: bytes | None = None) -> Verified:
    """Check the whole log. To be called in a transaction. Raises :class:`ChainBroken`."""
    before: Seal | None = None
    hours = rows = expired = 0
    awaited = expected_head
    while page := await audit_seals.page(connection, after=before.hour if before else None, limit=_SEALS_A_PAGE):
        for seal in page:
            _check_link(key, before, seal)
            kept = await _check_rows(connection, seal)
            hours, rows, expired = hours + 1, rows + (seal.rows if kept else 0), expired + (not kept)
            awaited = None if seal.head == awaited else awaited
            before = seal
    if awaited is not None:
        raise ChainBroken(
            f"The chain doesn't hold the expected head {awaited.hex()}: its end was cut off or replaced."
        )
    await _check_edges(connection, before)
    return Verified(hours, rows, expired, before)


def _check_link(key: SealKey, before: Seal | None, seal: Seal) -> None:
    """That a seal is as it was made, and the very next one after the one before."""
    if before is not None and seal.hour != before.hour + HOUR:
        raise ChainBroken(f"The seal of the hour {_named(before.hour + HOUR)} is missing.")
    if seal.sealed_with != key.check_value:
        raise ChainBroken(
            f"The seal of the hour {_named(seal.hour)} was made with another key than this key file's, or changed."
        )
    if not key.fits(seal):
        raise ChainBroken(f"The seal of the hour {_named(seal.hour)} has been changed.")
    if seal.previous != (before.head if before else GENESIS):
        place = "is not the first one" if before is None else f"doesn't follow that of {_named(before.hour)}"
        raise ChainBroken(f"The seal of the hour {_named(seal.hour)} {place}: what came before was removed.")


async def _check_rows(connection: Connection, seal: Seal) -> bool:
    """That the rows of an hour are those that were sealed; whether they are still there."""
    found = await audit_seals.digest(connection, seal.hour)
    if found.rows == seal.rows and found.value() == seal.digest:
        return True
    if found.rows == 0 and await _may_have_expired(connection, seal):
        return False
    what = (
        "its rows are not those that were sealed"
        if found.rows == seal.rows
        else f"{seal.rows} rows were sealed, {found.rows} are there"
    )
    raise ChainBroken(f"The audit log of the hour {_named(seal.hour)} has been changed: {what}.")


async def _may_have_expired(connection: Connection, seal: Seal) -> bool:
    newest = await audit_seals.last(connection)
    return newest is not None and seal.hour + HOUR <= newest.expires_before


async def _check_edges(connection: Connection, newest: Seal | None) -> None:
    """That no row is older than the chain, and no hour has waited too long for its seal."""
    oldest = await audit_seals.oldest_row(connection)
    if newest is None:
        since = oldest
    else:
        first = (await audit_seals.page(connection, after=None, limit=1))[0]
        if oldest is not None and oldest < first.hour:
            raise ChainBroken(
                f"The audit log of the hour {_named(oldest)} is older than the first seal: it was added."
            )
        since = newest.hour + HOUR
    if since is not None and await audit_seals.overdue(connection, since, OVERDUE):
        raise ChainBroken(
            f"The hour {_named(since)} should be sealed by now: its seal was removed, or no worker is running."
        )


def _named(hour: datetime) -> str:
    return f"{hour:%Y-%m-%d %H:00} UTC"
