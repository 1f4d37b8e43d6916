"""The outbox of messages to customers."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from asyncpg import Record

from models.errors import UserErasedError
from models.temporal.execution import Message
from models.vocabulary import Channel, MessageStatus, Purpose, Suppression
from privacy.encryption import Cipher, DataKey
from store.connection import Connection

_NAMESPACE = uuid.UUID("5f0c3f0e-8d7c-4a57-9d6d-0f6f1c1b8a11")

_SETTLES_FROM = {
    MessageStatus.OUTBOX: ("pending",),
    MessageStatus.SENDING: ("pending", "sending"),
    MessageStatus.PENDING: ("pending", "sending"),
    MessageStatus.SENT: ("pending", "sending", "unconfirmed"),
    MessageStatus.UNCONFIRMED: ("sending",),
    MessageStatus.REFUSED: ("pending", "sending", "unconfirmed"),
    MessageStatus.SUPPRESSED: ("pending", "sending"),
}
"""From which statuses a message may come into each: a withdrawn or sent one stays what it is. On its way out it
goes through :func:`store.messages.messages.send_gate.authorize` alone."""


@dataclass(frozen=True, repr=False)
class Intent:
    """A message as it is to be sent; in the clear, so it has no ``repr``."""

    message_id: str
    status: MessageStatus
    recipient: str
    """The e-mail address; on another channel the user's id."""
    subject: str
    body: str
    purpose: Purpose | None = None
    reason: Suppression | None = None


async def intend(
    connection: Connection,
    cipher: Cipher,
    message: Message,
    purpose: Purpose | None,
    render: Callable[[str], tuple[str, str]],
) -> Intent:
    """Write the intent to send a message for a step, or read back the one that was written before.

    The message id follows from (instance, step). Raises :class:`UserErasedError` where the person is gone.
    """
    context = message.step_context
    message_id = uuid.uuid5(_NAMESPACE, f"{context.instance_id}/{context.step}").hex
    row = await connection.fetchrow(
        """
        SELECT u.email, u.name, k.wrapped, m.status, m.recipient, m.subject, m.body, m.reason
        FROM users u
        JOIN data_keys k ON k.subject = u.user_id
        LEFT JOIN messages m ON m.message_id = $2
        WHERE u.user_id = $1 AND k.wrapped IS NOT NULL
        """,
        context.user_id,
        message_id,
    )
    if row is None:
        raise UserErasedError
    key = cipher.unwrap(context.user_id, row["wrapped"])
    if row["status"] is not None:
        return _read_back(key, message_id, purpose, row)
    subject, body = render(key.decrypt_json("users.name", row["name"]))
    by_email = message.channel is Channel.EMAIL
    recipient = key.decrypt_json("users.email", row["email"]) if by_email else context.user_id
    intent = Intent(message_id, MessageStatus.PENDING, recipient, subject, body, purpose)
    await _insert(connection, key, message, intent)
    return intent


def _read_back(key: DataKey, message_id: str, purpose: Purpose | None, row: Record) -> Intent:
    return Intent(
        message_id,
        MessageStatus(row["status"]),
        recipient=key.decrypt_json("messages.recipient", row["recipient"]),
        subject=key.decrypt_json("messages.subject", row["subject"]),
        body=key.decrypt_json("messages.body", row["body"]),
        purpose=purpose,
        reason=Suppression(row["reason"]) if row["reason"] else None,
    )


async def _insert(connection: Connection, key: DataKey, message: Message, intent: Intent) -> None:
    context = message.step_context
    await connection.execute(
        """
        INSERT INTO messages (message_id, instance_id, step, user_id, channel, template, status,
                              recipient, subject, body, purpose)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (message_id) DO NOTHING
        """,
        intent.message_id,
        context.instance_id,
        context.step,
        context.user_id,
        message.channel.value,
        message.template,
        intent.status.value,
        key.encrypt_json("messages.recipient", intent.recipient),
        key.encrypt_json("messages.subject", intent.subject),
        key.encrypt_json("messages.body", intent.body),
        intent.purpose.value if intent.purpose else None,
    )


async def settle(
    connection: Connection, message_id: str, status: MessageStatus, *, reason: Suppression | None = None
) -> bool:
    """Move a message to a status it may come into; says whether it did."""
    moved = await connection.fetchval(
        """
        UPDATE messages
        SET status = $2, reason = $4, sent_at = CASE WHEN $2 = 'sent' THEN now() ELSE sent_at END,
            left_at = CASE WHEN $2 IN ('sending', 'outbox') THEN now() ELSE left_at END
        WHERE message_id = $1 AND status = ANY($3::text[])
        RETURNING true
        """,
        message_id,
        status.value,
        list(_SETTLES_FROM[status]),
        reason.value if reason else None,
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
