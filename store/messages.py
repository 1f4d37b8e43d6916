"""The outbox of messages to customers."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from models.errors import UserErased
from models.messages.execution import StepContext
from models.vocabulary import MessageStatus, Purpose
from privacy.sealing import DataKey, Sealer
from store import consent_lock
from store.connection import Connection

_NAMESPACE = uuid.UUID("5f0c3f0e-8d7c-4a57-9d6d-0f6f1c1b8a11")

_SETTLES_FROM = {
    MessageStatus.PENDING: ("pending", "sending"),
    MessageStatus.SENT: ("pending", "sending", "unconfirmed"),
    MessageStatus.UNCONFIRMED: ("sending",),
    MessageStatus.REFUSED: ("pending", "sending", "unconfirmed"),
    MessageStatus.SUPPRESSED: ("pending",),
}
"""From which statuses a message may come into each: a withdrawn or sent one stays what it is. On its way out it
goes through :func:`release` alone."""


@dataclass(frozen=True, repr=False)
class Intent:
    """A message as it is to be sent; in the clear, so it has no ``repr``."""

    message_id: str
    status: MessageStatus
    recipient: str
    subject: str
    body: str


async def intend(
    connection: Connection,
    sealer: Sealer,
    context: StepContext,
    template: str,
    render: Callable[[str], tuple[str, str]],
) -> Intent:
    """Write the intent to send a message for a step, or read back the one that was written before.

    The message id follows from (instance, step). Raises :class:`UserErased` where the person is gone.
    """
    message_id = uuid.uuid5(_NAMESPACE, f"{context.instance_id}/{context.step}").hex
    row = await connection.fetchrow(
        """
        SELECT u.email, u.name, k.wrapped, m.status, m.recipient, m.subject, m.body
        FROM users u
        JOIN data_keys k ON k.subject = u.user_id
        LEFT JOIN messages m ON m.message_id = $2
        WHERE u.user_id = $1 AND k.wrapped IS NOT NULL
        """,
        context.user_id,
        message_id,
    )
    if row is None:
        raise UserErased
    key = sealer.unwrap(context.user_id, row["wrapped"])
    if row["status"] is not None:
        return Intent(
            message_id,
            MessageStatus(row["status"]),
            recipient=key.open_json("messages.recipient", row["recipient"]),
            subject=key.open_json("messages.subject", row["subject"]),
            body=key.open_json("messages.body", row["body"]),
        )
    subject, body = render(key.open_json("users.name", row["name"]))
    intent = Intent(message_id, MessageStatus.PENDING, key.open_json("users.email", row["email"]), subject, body)
    await _insert(connection, key, context, template, intent)
    return intent


async def _insert(
    connection: Connection, key: DataKey, context: StepContext, template: str, intent: Intent
) -> None:
    await connection.execute(
        """
        INSERT INTO messages (message_id, instance_id, step, user_id, channel, template, status,
                              recipient, subject, body)
        VALUES ($1, $2, $3, $4, 'email', $5, $6, $7, $8, $9)
        ON CONFLICT (message_id) DO NOTHING
        """,
        intent.message_id,
        context.instance_id,
        context.step,
        context.user_id,
        template,
        intent.status.value,
        key.seal_json("messages.recipient", intent.recipient),
        key.seal_json("messages.subject", intent.subject),
        key.seal_json("messages.body", intent.body),
    )


async def permitted(connection: Connection, user_id: str, purpose: Purpose | None) -> bool:
    """Whether a person may be written to for a purpose, as it stands now; None needs no consent."""
    found: bool | None = await connection.fetchval(
        f"SELECT {_PERMITTED} FROM data_keys k WHERE k.subject = $1", user_id, purpose
    )
    return bool(found)


_PERMITTED = """k.wrapped IS NOT NULL AND ($2::text IS NULL OR EXISTS (
    SELECT FROM consents c WHERE c.user_id = k.subject AND c.purpose = $2 AND c.granted))"""
"""Of a row of ``data_keys k``: the person is there, and consents."""


async def release(
    connection: Connection,
    message_id: str,
    user_id: str,
    purpose: Purpose | None,
    to: Literal[MessageStatus.SENDING, MessageStatus.OUTBOX],
) -> MessageStatus | None:
    """Mark a message as leaving, if its person consents to its purpose at this very moment; what it is then.

    Otherwise it is suppressed; one that an earlier attempt may have handed over is unconfirmed. None where it may
    not leave any more, since it was withdrawn.

    The lock is the one that withdrawal and erasure take exclusively (:mod:`store.consent_lock`), and consent is
    read in the statement after it. So a withdrawal has either committed before this mark, which then sees it; or
    it commits, and is answered, after the mark has: the message was leaving before the person was told that none
    would.
    """
    await consent_lock.share(connection, [user_id])
    status = await connection.fetchval(
        f"""
        UPDATE messages m
        SET status = CASE WHEN {_PERMITTED} THEN $4
                          WHEN m.status = 'sending' THEN 'unconfirmed' ELSE 'suppressed' END
        FROM data_keys k
        WHERE k.subject = $1 AND m.message_id = $3 AND m.user_id = $1 AND m.status IN ('pending', 'sending')
        RETURNING m.status
        """,
        user_id,
        purpose,
        message_id,
        to.value,
    )
    return None if status is None else MessageStatus(status)


async def settle(connection: Connection, message_id: str, status: MessageStatus) -> bool:
    """Move a message to a status it may come into; says whether it did."""
    moved = await connection.fetchval(
        """
        UPDATE messages SET status = $2, sent_at = CASE WHEN $2 = 'sent' THEN now() ELSE sent_at END
        WHERE message_id = $1 AND status = ANY($3::text[])
        RETURNING true
        """,
        message_id,
        status.value,
        list(_SETTLES_FROM[status]),
    )
    return bool(moved)


async def withdraw(connection: Connection, instance_id: str) -> int:
    """Withdraw the messages of an instance that haven't left; says how many.

    One that is on the wire can't be called back, and nobody waits for its outcome any more: it is unconfirmed,
    until a straggler of an attempt says that it was sent.
    """
    await connection.execute(
        "UPDATE messages SET status = 'unconfirmed' WHERE instance_id = $1 AND status = 'sending'", instance_id
    )
    tag = await connection.execute(
        "UPDATE messages SET status = 'withdrawn' WHERE instance_id = $1 AND status = 'pending'", instance_id
    )
    return int(tag.rpartition(" ")[2])
