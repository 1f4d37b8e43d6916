"""Which profiles the retention of profiles counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from privacy.encryption import Cipher
from runtime.database import Database
from store.retention import expired
from testing.people import Customer


async def test_closed_accounts_and_recent_profiles_are_not_dormant(database: Database, cipher: Cipher) -> None:
    """A closed account has a period of its own."""
    dormant, closed, _ = [await Customer.new(database, cipher) for _ in range(3)]
    year = timedelta(days=365)
    async with database.connection() as connection:
        old = "UPDATE users SET updated_at = now() - interval '2 years' WHERE user_id = ANY($1)"
        await connection.execute(old, [dormant.user_id, closed.user_id])
        assert await expired.count_dormant_profiles(connection, datetime.now(UTC) - year) == 2
        await connection.execute("UPDATE users SET closed_at = updated_at WHERE user_id = $1", closed.user_id)
        assert await expired.count_dormant_profiles(connection, datetime.now(UTC) - year) == 1
