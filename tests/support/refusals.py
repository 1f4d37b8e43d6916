"""Carrying refusals out without Temporal around it."""

from __future__ import annotations

from privacy.sealing import Sealer
from runtime.database import Database
from store import refusals
from store.refusals import Refusal


async def listed(database: Database) -> list[Refusal]:
    """Who is on the list, and due."""
    async with database.connection() as connection:
        return await refusals.due(connection, 100)


async def take_page(database: Database, sealer: Sealer, refusal: Refusal) -> None:
    """Take one page, in a transaction of its own."""
    async with database.transaction() as connection:
        await refusals.take_page(connection, sealer, refusal)


async def carry_out(database: Database, sealer: Sealer) -> int:
    """Take pages until nobody is on the list; how many."""
    pages = 0
    while found := await listed(database):
        for refusal in found:
            await take_page(database, sealer, refusal)
            pages += 1
    return pages
