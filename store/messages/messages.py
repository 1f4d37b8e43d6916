"""Messages to customers: the intent to send one, and its status."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from asyncpg import Record
from sqlalchemy import Text, bindparam, case, func, or_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.errors import UserErasedError
from models.tables.execution import Message as MessageRow
from models.tables.people import DataKey as DataKeyRow
from models.tables.people import User
from models.temporal.execution import Message
from models.vocabulary import Channel, MessageStatus, Purpose, Suppression
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.statements import Statement, one_of, parameters, select, statement

_NAMESPACE = uuid.UUID("5f0c3f0e-8d7c-4a57-9d6d-0f6f1c1b8a11")

_PREDECESSORS = {
    MessageStatus.OUTBOX: ("pending",),
    MessageStatus.SENDING: ("pending", "sending"),
    MessageStatus.PENDING: ("pending", "sending"),
    MessageStatus.SENT: ("pending", "sending", "unconfirmed"),
    MessageStatus.UNCONFIRMED: ("sending",),
    MessageStatus.REFUSED: ("pending", "sending", "unconfirmed"),
    MessageStatus.SUPPRESSED: ("pending", "sending"),
}
"""For each status, the statuses that may change to it. A withdrawn or sent message keeps its status.

Only the send gate sets `sending` and `outbox` (:func:`store.messages.send_gate.authorize`)."""


@dataclass(frozen=True, repr=False)
class Intent:
    """A message to send, in plaintext, so it has no ``repr``."""

    message_id: str
    status: MessageStatus
    recipient: str
    """The e-mail address; on other channels the user's id."""
    subject: str
    body: str
    purpose: Purpose | None = None
    reason: Suppression | None = None


_FIND = statement(
    select(
        col(User.email),
        col(User.name),
        col(DataKeyRow.wrapped),
        col(MessageRow.status),
        col(MessageRow.recipient),
        col(MessageRow.subject),
        col(MessageRow.body),
        col(MessageRow.reason),
    )
    .select_from(User)
    .join(DataKeyRow, col(DataKeyRow.subject) == col(User.user_id))
    .outerjoin(MessageRow, col(MessageRow.message_id) == bindparam("message_id"))
    .where(col(User.user_id) == bindparam("user_id"), col(DataKeyRow.wrapped).is_not(None))
)
_NAMES = ("message_id", "instance_id", "step", "user_id", "channel", "template", "status")
_ENCRYPTED = ("recipient", "subject", "body")
_INSERT = statement(
    insert(MessageRow)
    .values(parameters(*_NAMES, *_ENCRYPTED, "purpose"))
    .on_conflict_do_nothing(index_elements=["message_id"])
)


async def intend(
    connection: Connection,
    cipher: Cipher,
    message: Message,
    purpose: Purpose | None,
    render: Callable[[str], tuple[str, str]],
) -> Intent:
    """Write the intent to send a step's message, or read the intent of an earlier attempt.

    The message id is a hash of (instance, step), so each attempt gets the same one. Raises
    :class:`UserErasedError`.
    """
    context = message.step_context
    message_id = uuid.uuid5(_NAMESPACE, f"{context.instance_id}/{context.step}").hex
    row = await _FIND.fetchrow(connection, user_id=context.user_id, message_id=message_id)
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
        recipient=key.decrypt_json("messages.recipient", row["recipient"], message_id),
        subject=key.decrypt_json("messages.subject", row["subject"], message_id),
        body=key.decrypt_json("messages.body", row["body"], message_id),
        purpose=purpose,
        reason=Suppression(row["reason"]) if row["reason"] else None,
    )


async def _insert(connection: Connection, key: DataKey, message: Message, intent: Intent) -> None:
    context = message.step_context
    await _INSERT.execute(
        connection,
        message_id=intent.message_id,
        instance_id=context.instance_id,
        step=context.step,
        user_id=context.user_id,
        channel=message.channel,
        template=message.template,
        status=intent.status,
        purpose=intent.purpose,
        **{
            name: key.encrypt_json(f"messages.{name}", getattr(intent, name), intent.message_id)
            for name in _ENCRYPTED
        },
    )


_NEW_STATUS = bindparam("new_status", type_=Text)
_LEAVES = or_(_NEW_STATUS == MessageStatus.SENDING, _NEW_STATUS == MessageStatus.OUTBOX)
_CHANGE_STATUS = statement(
    update(MessageRow)
    .values(
        status=_NEW_STATUS,
        reason=bindparam("new_reason"),
        sent_at=case((_NEW_STATUS == MessageStatus.SENT, func.now()), else_=col(MessageRow.sent_at)),
        authorized_at=case((_LEAVES, func.now()), else_=col(MessageRow.authorized_at)),
    )
    .where(col(MessageRow.message_id) == bindparam("message_id"), one_of(col(MessageRow.status), "predecessors"))
)


async def change_status(
    connection: Connection, message_id: str, status: MessageStatus, *, reason: Suppression | None = None
) -> bool:
    """Change a message's status if its current one permits it; returns whether it changed."""
    changed = await _CHANGE_STATUS.execute(
        connection,
        message_id=message_id,
        new_status=status,
        new_reason=reason,
        predecessors=list(_PREDECESSORS[status]),
    )
    return changed > 0


def _withdraw_statement(present: MessageStatus, new: MessageStatus) -> Statement:
    return statement(
        update(MessageRow)
        .values(status=new)
        .where(col(MessageRow.instance_id) == bindparam("instance_id"), col(MessageRow.status) == present)
    )


_DOUBT_SENDING = _withdraw_statement(MessageStatus.SENDING, MessageStatus.UNCONFIRMED)
_WITHDRAW_PENDING = _withdraw_statement(MessageStatus.PENDING, MessageStatus.WITHDRAWN)


async def withdraw(connection: Connection, instance_id: str) -> int:
    """Withdraw the pending messages of an instance; returns their number.

    A message that is already being sent can't be withdrawn. It becomes unconfirmed, until a late attempt records
    that it was sent.
    """
    await _DOUBT_SENDING.execute(connection, instance_id=instance_id)
    return await _WITHDRAW_PENDING.execute(connection, instance_id=instance_id)
