"""The send gate: checks consent, account and frequency cap in the transaction that marks a message as being sent.

No message is sent after the API has responded to a withdrawal, an erasure or the closing of the account, no
marketing after a suspension, and none above the cap. Argument: the transaction locks the user's row, if a cap
applies, and then the consent bucket. Its **next** statement reads consent, account and cap, and sees everything
that was committed before the locks were granted (READ COMMITTED).

- A withdrawal or a closing takes both locks in the same order, and the API responds after its commit
  (:mod:`store.consents.locks`). Either it commits first, and the gate sees it. Or it waits until the message is
  marked: then sending began before it.
- Two messages to one user queue at the row lock, so that the second counts the first.

A message that its receiver rejects temporarily becomes `pending` again and no longer counts. Its next attempt
passes the gate again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Interval, Text, bindparam, func, or_
from sqlmodel import col

from models.tables.execution import Message as MessageRow
from models.tables.people import Consent, DataKey, User
from models.vocabulary import SENT_OR_MAYBE, AccountStatus, MessageStatus, Purpose, Suppression
from store.connection import Connection
from store.consents import locks
from store.messages import messages
from store.statements import one_of, select, statement


@dataclass(frozen=True)
class FrequencyCap:
    """The most messages of one purpose that a user gets within a time."""

    messages: int
    within: timedelta


class MessageWithdrawnError(Exception):
    """The instance was cancelled after the intent was written."""


_LOCK_USER = statement(
    select(col(User.user_id)).where(col(User.user_id) == bindparam("user_id")).with_for_update(key_share=True)
)


async def authorize(
    connection: Connection, intent: messages.Intent, user_id: str, status: MessageStatus, cap: FrequencyCap | None
) -> Suppression | None:
    """Change a message to ``status`` (`sending` or `outbox`), or suppress it and return the reason.

    A suppressed message gets the status of :func:`suppressed_status`. Raises :class:`MessageWithdrawnError` if the
    current status doesn't permit the change.
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
    """`suppressed`, or `unconfirmed` if an earlier attempt may have sent the message."""
    may_be_sent = intent.status is MessageStatus.SENDING
    return MessageStatus.UNCONFIRMED if may_be_sent else MessageStatus.SUPPRESSED


_PURPOSE = bindparam("purpose", type_=Text)
_HAS_KEY = select(col(DataKey.subject)).where(
    col(DataKey.subject) == bindparam("user_id"), col(DataKey.wrapped).is_not(None)
)
_CONSENT = select(col(Consent.user_id)).where(
    col(Consent.user_id) == bindparam("user_id"), col(Consent.purpose) == _PURPOSE, col(Consent.granted)
)
_ACCOUNT = select(col(User.account_status)).where(col(User.user_id) == bindparam("user_id"))
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
        _ACCOUNT.scalar_subquery().label("account"),
        or_(_PURPOSE.is_(None), _CONSENT.exists()).label("consented"),
        _RECENT.scalar_subquery().label("recent"),
    )
)


async def suppression_reason(
    connection: Connection, intent: messages.Intent, user_id: str, cap: FrequencyCap | None
) -> Suppression | None:
    """The current reason to suppress a message, if any. Only under :func:`authorize`'s locks is it reliable."""
    row = await _CHECK.fetchrow(
        connection,
        user_id=user_id,
        purpose=intent.purpose,
        message_id=intent.message_id,
        counted=list(SENT_OR_MAYBE),
        within=cap.within if cap else timedelta(),
    )
    assert row is not None  # a row of expressions
    if not row["present"]:
        return Suppression.USER_ERASED
    if row["account"] == AccountStatus.CLOSED:
        return Suppression.ACCOUNT_CLOSED
    if not row["consented"]:
        return Suppression.CONSENT_REQUIRED
    if row["account"] == AccountStatus.SUSPENDED and intent.purpose is Purpose.MARKETING:
        return Suppression.ACCOUNT_SUSPENDED
    capped = cap is not None and intent.purpose is not None and row["recent"] >= cap.messages
    return Suppression.FREQUENCY_CAP if capped else None
