"""Callbacks: the URL that gets the report of an instance's end, and the state of the report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Integer, and_, bindparam, func, update
from sqlalchemy import delete as delete_from
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col

from models.tables.access import ApiKey
from models.tables.execution import Callback as StoredCallback
from models.tables.execution import Instance
from models.tables.people import DataKey as StoredKey
from models.temporal.system import CallbackDue
from models.vocabulary import Role, widest
from privacy.encryption import Cipher, DataKey
from store import outbox
from store.connection import Connection
from store.outbox import OutboxEntry
from store.statements import parameters, select, statement

CallbackStatus = Literal["waiting", "delivered", "gone", "failed"]


@dataclass(frozen=True, repr=False)
class Callback:
    """Decrypted, so it has no ``repr``."""

    url: str
    secret: str
    key_id: str
    """The API key that started the instance."""
    role: Role | None
    """The widest of the key's current roles, which decides on masks; None if the key was revoked."""


_ADD = statement(
    upsert(StoredCallback)
    .values(parameters("instance_id", "user_id", "url", "secret"))
    .on_conflict_do_nothing(index_elements=[col(StoredCallback.instance_id)])
)
_SECRET = statement(
    select(col(StoredCallback.secret)).where(col(StoredCallback.instance_id) == bindparam("instance_id"))
)


async def add(connection: Connection, key: DataKey, instance_id: str, url: str, secret: str) -> str:
    """Store a callback. Returns its signing secret; a repeated request gets the first request's secret."""
    await _ADD.execute(
        connection,
        instance_id=instance_id,
        user_id=key.subject,
        url=key.encrypt_json("callbacks.url", url, instance_id),
        secret=key.encrypt_json("callbacks.secret", secret, instance_id),
    )
    stored = await _SECRET.fetchval(connection, instance_id=instance_id)
    return str(key.decrypt_json("callbacks.secret", stored, instance_id))


_FIND = statement(
    select(
        col(StoredCallback.user_id),
        col(StoredCallback.url),
        col(StoredCallback.secret),
        col(StoredKey.wrapped),
        col(Instance.started_by),
        col(ApiKey.roles),
    )
    .join(Instance, col(Instance.instance_id) == col(StoredCallback.instance_id))
    .join(StoredKey, col(StoredKey.subject) == col(StoredCallback.user_id))
    .outerjoin(ApiKey, and_(col(ApiKey.key_id) == col(Instance.started_by), col(ApiKey.revoked_at).is_(None)))
    .where(col(StoredCallback.instance_id) == bindparam("instance_id"), col(StoredKey.wrapped).is_not(None))
)


async def find(connection: Connection, cipher: Cipher, instance_id: str) -> Callback | None:
    """None if the instance has no callback or its person has been erased."""
    row = await _FIND.fetchrow(connection, instance_id=instance_id)
    if row is None:
        return None
    key = cipher.unwrap(row["user_id"], row["wrapped"])
    return Callback(
        key.decrypt_json("callbacks.url", row["url"], instance_id),
        key.decrypt_json("callbacks.secret", row["secret"], instance_id),
        row["started_by"],
        widest([Role(role) for role in row["roles"]]) if row["roles"] else None,
    )


_THIS_END = (
    select(col(Instance.instance_id))
    .where(
        col(Instance.instance_id) == bindparam("instance_id"),
        func.cardinality(col(Instance.replaced_runs)) == bindparam("ending", type_=Integer()),
    )
    .exists()
)
"""The attempt reports the instance's latest end. A late attempt for an earlier end writes nothing."""
_RECORD_ATTEMPT = statement(
    update(StoredCallback)
    .values(
        status=bindparam("status"),
        last_status=bindparam("last_status"),
        attempts=col(StoredCallback.attempts) + 1,
        last_attempt_at=func.now(),
    )
    .where(col(StoredCallback.instance_id) == bindparam("instance_id"), _THIS_END)
    .returning(col(StoredCallback.attempts))
)


async def record_attempt(
    connection: Connection, due: CallbackDue, status: CallbackStatus, http_status: int | None
) -> int | None:
    """Record an attempt's outcome. Returns the number of attempts for this end; None for an earlier end."""
    attempts: int | None = await _RECORD_ATTEMPT.fetchval(
        connection, instance_id=due.instance_id, ending=due.ending, status=status, last_status=http_status
    )
    return attempts


_GIVE_UP = statement(
    update(StoredCallback)
    .values(status="failed")
    .where(
        col(StoredCallback.instance_id) == bindparam("instance_id"),
        col(StoredCallback.status) == "waiting",
        _THIS_END,
    )
)


async def give_up(connection: Connection, due: CallbackDue) -> None:
    """Record that this end gets no further attempt."""
    await _GIVE_UP.execute(connection, instance_id=due.instance_id, ending=due.ending)


_MARK_DUE = statement(
    update(StoredCallback)
    .values(status="waiting", attempts=0)
    .where(
        col(StoredCallback.instance_id) == bindparam("instance_id"),
        col(StoredCallback.status) != "gone",
        col(Instance.instance_id) == col(StoredCallback.instance_id),
    )
    .returning(col(Instance.workflow_id), col(Instance.user_id), func.cardinality(col(Instance.replaced_runs)))
)


async def mark_due(connection: Connection, instance_id: str) -> None:
    """Request the report of an instance's end, in the transaction that writes the end; no-op without a callback.

    The callback becomes ``waiting`` without attempts, even if an earlier end was reported. So retention keeps it
    (:data:`store.retention.expired.CALLBACKS`).
    """
    row = await _MARK_DUE.fetchrow(connection, instance_id=instance_id)
    if row is None:
        return
    workflow_id, user_id, ending = row
    entry = OutboxEntry(
        kind="callback",
        workflow_id=workflow_id,
        instance_id=instance_id,
        step=None,
        user_id=user_id,
        event_id=str(ending),  # the number of replays before this end, which identifies it
        event_type="instance.ended",
        event_timestamp=datetime.now(UTC),
    )
    await outbox.write(connection, [entry])


_DELETE = statement(delete_from(StoredCallback).where(col(StoredCallback.instance_id) == bindparam("instance_id")))


async def delete(connection: Connection, instance_id: str) -> None:
    await _DELETE.execute(connection, instance_id=instance_id)
