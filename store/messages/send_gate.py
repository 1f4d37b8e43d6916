"""The send gate: checks consent and the frequency cap in the transaction that marks a message as leaving.

No message leaves after a withdrawal or an erasure was answered, and none above the cap. Argument: the transaction
locks the user's row, where a cap applies, and then the consent bucket. Its **next** statement reads consent and
cap, and sees everything that was committed before the locks were granted (READ COMMITTED).

- A withdrawal takes both locks in the same order, and is answered after its commit (:mod:`store.consents.locks`).
  It commits first, and the gate sees it. Or it waits until the message is marked: then the message was leaving
  before the withdrawal.
- Two messages to one user wait for each other at the row, so that the second counts the first.

A message that its receiver has turned down for now goes back to `pending` and no longer counts. Its next attempt
passes the gate again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Interval, Text, bindparam, func, or_
from sqlmodel import col

from models.tables.execution import Message as MessageRow
from models.tables.people import Consent, DataKey, User
from models.vocabulary import MessageStatus, Suppression
from store.connection import Connection
from store.consents import locks
from store.messages import messages
from store.statements import one_of, select, statement

_COUNTED = [MessageStatus.OUTBOX, MessageStatus.SENDING, MessageStatus.SENT, MessageStatus.UNCONFIRMED]


@dataclass(frozen=True)
class FrequencyCap:
    """The number of messages of one purpose that a user gets at most within a time."""

    messages: int
    within: timedelta


class MessageWithdrawnError(Exception):
    """The instance was cancelled between the intent and the hand-over."""


_LOCK_USER = statement(
    select(col(User.user_id)).where(col(User.user_id) == bindparam("user_id")).with_for_update(key_share=True)
)


async def authorize(
    connection: Connection, intent: messages.Intent, user_id: str, status: MessageStatus, cap: FrequencyCap | None
) -> Suppression | None:
    """Change a message to ``status`` (`sending`, `outbox`), unless there is a reason to suppress it.

    Returns the reason; the message then has the status of :func:`suppressed_status`. Raises
    :class:`MessageWithdrawnError` where its present status no longer permits the change.
    """
    if intent.purpose is not None and cap is not None:
        await _LOCK_USER.execute(connection, user_id=user_id)
    await locks.share(connection, [user_id])
    reason = await suppression_reason(connection, intent, user_id, cap)
    if reason is not None:
        status = suppressed_status(intent)
    if not await messages.change_status(connection, intent.message_id, status, reason=reason):
        raise MessageWithdrawnError
    return reason


def suppressed_status(intent: messages.Intent) -> MessageStatus:
    """`suppressed`, or `unconfirmed` where an earlier attempt may have sent the message."""
    may_be_sent = intent.status is MessageStatus.SENDING
    return MessageStatus.UNCONFIRMED if may_be_sent else MessageStatus.SUPPRESSED


_PURPOSE = bindparam("purpose", type_=Text)
_HAS_KEY = select(col(DataKey.subject)).where(
    col(DataKey.subject) == bindparam("user_id"), col(DataKey.wrapped).is_not(None)
)
_CONSENT = select(col(Consent.user_id)).where(
    col(Consent.user_id) == bindparam("user_id"), col(Consent.purpose) == _PURPOSE, col(Consent.granted)
)
_RECENT = (
    select(func.count())
    .select_from(MessageRow)
    .where(
        col(MessageRow.user_id) == bindparam("user_id"),
        col(MessageRow.purpose) == _PURPOSE,
        col(MessageRow.message_id) != bindparam("message_id"),
        one_of(col(MessageRow.status), "counted"),
        col(MessageRow.authorized_at) > func.now() - bindparam("within", type_=Interval),
    )
)
_CHECK = statement(
    select(
        _HAS_KEY.exists().label("present"),
        or_(_PURPOSE.is_(None), _CONSENT.exists()).label("consented"),
        _RECENT.scalar_subquery().label("recent"),
    )
)


async def suppression_reason(
    connection: Connection, intent: messages.Intent, user_id: str, cap: FrequencyCap | None
) -> Suppression | None:
    """The reason against a message at present; only :func:`authorize` reads it under the locks."""
    row = await _CHECK.fetchrow(
        connection,
        user_id=user_id,
        purpose=intent.purpose,
        message_id=intent.message_id,
        counted=_COUNTED,
        within=cap.within if cap else timedelta(),
    )
    assert row is not None  # a row of expressions
    if not row["present"]:
        return Suppression.USER_ERASED
    if not row["consented"]:
        return Suppression.CONSENT_REQUIRED
    capped = cap is not None and intent.purpose is not None and row["recent"] >= cap.messages
    return Suppression.FREQUENCY_CAP if capped else None
