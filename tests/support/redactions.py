"""Redactions without Temporal."""

from __future__ import annotations

from privacy.encryption import Cipher
from runtime.database import Database
from store.events import redactions
from store.events.redactions import PendingRedaction


async def due(database: Database) -> list[PendingRedaction]:
    async with database.connection() as connection:
        return await redactions.due(connection, 100)


async def redact_page(database: Database, cipher: Cipher, pending: PendingRedaction) -> None:
    async with database.transaction() as connection:
        await redactions.redact_page(connection, cipher, pending)


async def redact_all(database: Database, cipher: Cipher) -> int:
    """Redact pages until nothing is due; return their number."""
    pages = 0
    while found := await due(database):
        for pending in found:
            await redact_page(database, cipher, pending)
            pages += 1
    return pages
