"""Carrying refusals out without Temporal around it."""

from __future__ import annotations

from privacy.encryption import Cipher
from runtime.database import Database
from store.events import redactions
from store.events.redactions import Refusal


async def listed(database: Database) -> list[Refusal]:
    """Who is on the list, and due."""
    async with database.connection() as connection:
        return await redactions.due(connection, 100)


async def take_page(database: Database, cipher: Cipher, refusal: Refusal) -> None:
    """Take one page, in a transaction of its own."""
    async with database.transaction() as connection:
        await redactions.take_page(connection, cipher, refusal)


async def carry_out(database: Database, cipher: Cipher) -> int:
    """Take pages until nobody is on the list; how many."""
    pages = 0
    while found := await listed(database):
        for refusal in found:
            await take_page(database, cipher, refusal)
            pages += 1
    return pages
