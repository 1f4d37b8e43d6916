"""Where a person's clock stands."""

from __future__ import annotations

from privacy.encryption import Cipher
from store.connection import Connection


async def find(connection: Connection, cipher: Cipher, user_id: str) -> str | None:
    """The time zone of a user; None where it isn't known, or the person is gone."""
    row = await connection.fetchrow(
        """SELECT u.timezone, k.wrapped FROM users u JOIN data_keys k ON k.subject = u.user_id
           WHERE u.user_id = $1 AND k.wrapped IS NOT NULL""",
        user_id,
    )
    if row is None or row["timezone"] is None:
        return None
    name: str = cipher.unwrap(user_id, row["wrapped"]).decrypt_json("users.timezone", row["timezone"])
    return name
