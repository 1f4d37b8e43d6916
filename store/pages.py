"""Pages of encrypted rows, without those that can't be decrypted."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from asyncpg import Record

from privacy.encryption import DecryptionError, KeyUnwrapError
from store.pacing import Pace

Item = TypeVar("Item")
Place = TypeVar("Place")

logger = logging.getLogger("perennial.store")


async def readable_page(
    read: Callable[[Place | None, int], Awaitable[Sequence[Record]]],
    decrypted: Callable[[Record], Item],
    place_of: Callable[[Record], Place],
    *,
    after: Place | None,
    limit: int,
    search: bool = False,
) -> list[Item]:
    """Up to ``limit`` decrypted rows. ``read`` gets a place and a number, and reads so many rows after that place.

    A damaged row is logged and left out. Further rows take its place, so a page has fewer than ``limit`` rows only
    at the end of the list. Raises :class:`KeyUnwrapError` if no row can be decrypted, for want of a key. A
    ``search`` also raises :class:`DecryptionError` if it finds damaged rows alone.
    """
    found: list[Item] = []
    pace = Pace()
    while True:
        wanted = limit - len(found)
        rows = await read(after, wanted)
        for row in rows:
            try:
                found.append(decrypted(row))
            except DecryptionError as error:
                failure = error
                logger.error("a list leaves out a row: %s", error, extra={"user_id": row.get("user_id")})
            await pace.rest()
        if rows and not found and (search or isinstance(failure, KeyUnwrapError)):
            raise failure
        if len(found) == limit or len(rows) < wanted:
            return found
        after = place_of(rows[-1])
