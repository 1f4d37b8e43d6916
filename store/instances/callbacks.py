"""Callbacks: where the end of an instance is to be told, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.temporal.system import CallbackDue
from models.vocabulary import Role
from privacy.encryption import Cipher, DataKey
from privacy.signatures import new_secret
from store.connection import Connection

CallbackStatus = Literal["waiting", "delivered", "gone", "failed"]


@dataclass(frozen=True, repr=False)
class Callback:
    """Where and how to tell; in the clear, so it has no ``repr``."""

    url: str
    secret: str
    key_id: str
    """The API key that executed the instance."""
    role: Role | None
    """As which role the instance is shown: the one that the key has now; None where it has been revoked."""


async def place(connection: Connection, key: DataKey, instance_id: str, url: str) -> str:
    """Keep where an instance's end is to be told; returns the secret that it will be signed with.

    A repeated request, whose first answer was lost, gets the secret that the first one made.
    """
    secret = new_secret()
    await connection.execute(
        """INSERT INTO callbacks (instance_id, user_id, url, secret) VALUES ($1, $2, $3, $4)
           ON CONFLICT (instance_id) DO NOTHING""",
        instance_id,
        key.subject,
        key.encrypt_json("callbacks.url", url),
        key.encrypt_json("callbacks.secret", secret),
    )
    kept = await connection.fetchval("SELECT secret FROM callbacks WHERE instance_id = $1", instance_id)
    return str(key.decrypt_json("callbacks.secret", kept))


async def find(connection: Connection, cipher: Cipher, instance_id: str) -> Callback | None:
    """Where an instance's end is to be told; None for nowhere, or once its person has been erased."""
    row = await connection.fetchrow(
        """SELECT c.user_id, c.url, c.secret, k.wrapped, i.started_by, a.role
             FROM callbacks c JOIN instances i USING (instance_id) JOIN data_keys k ON k.subject = c.user_id
             LEFT JOIN api_keys a ON a.key_id = i.started_by AND a.revoked_at IS NULL
            WHERE c.instance_id = $1 AND k.wrapped IS NOT NULL""",
        instance_id,
    )
    if row is None:
        return None
    key = cipher.unwrap(row["user_id"], row["wrapped"])
    return Callback(
        key.decrypt_json("callbacks.url", row["url"]),
        key.decrypt_json("callbacks.secret", row["secret"]),
        row["started_by"],
        Role(row["role"]) if row["role"] else None,
    )


_OF_END = "EXISTS (SELECT FROM instances WHERE instance_id = $1 AND cardinality(replaced_runs) = $2)"
"""Whether it is still the end that a try tells of; a straggler of an earlier one writes nothing."""


async def tried(
    connection: Connection, due: CallbackDue, status: CallbackStatus, http_status: int | None
) -> int | None:
    """Write what became of a try; says which one of this end's it was, None where that end counts no more."""
    tries: int | None = await connection.fetchval(
        f"""UPDATE callbacks SET status = $3, last_status = $4, attempts = attempts + 1, last_attempt_at = now()
             WHERE instance_id = $1 AND {_OF_END} RETURNING attempts""",
        due.instance_id,
        due.ending,
        status,
        http_status,
    )
    return tries


async def give_up(connection: Connection, due: CallbackDue) -> None:
    """Write that the callback of an end is tried no more."""
    await connection.execute(
        f"UPDATE callbacks SET status = 'failed' WHERE instance_id = $1 AND status = 'waiting' AND {_OF_END}",
        due.instance_id,
        due.ending,
    )


async def due(connection: Connection, instance_id: str) -> None:
    """Have the end of an instance told, in the transaction that writes it; nothing where nobody asked for it.

    The callback is `waiting` and untried from then on, also where an earlier end of the instance was told: nothing
    that is still to be tried looks settled (:data:`store.retention.expired.CALLBACKS`).
    """
    await connection.execute(
        """
        WITH told AS (
            UPDATE callbacks SET status = 'waiting', attempts = 0 WHERE instance_id = $1 AND status <> 'gone'
            RETURNING instance_id)
        INSERT INTO temporal_outbox (kind, workflow_id, instance_id, step, user_id, event_id, event_type,
                                     event_timestamp)
        SELECT 'callback', i.workflow_id, i.instance_id, NULL, i.user_id, cardinality(i.replaced_runs)::text,
               'instance.ended', now()
        FROM told JOIN instances i USING (instance_id)
        """,
        instance_id,
    )
