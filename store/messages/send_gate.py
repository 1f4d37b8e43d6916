"""Letting messages go: the last look at consent and at the frequency cap, in the transaction that marks them.

Argument that no message leaves after a withdrawal or an erasure was answered, and none above the cap. The
transaction holds the person's row, where a cap is to be kept, then the bucket of consent, and looks in its
**next** statement (READ COMMITTED sees what was committed before the locks were given):

- A withdrawal takes both, in the same order, and answers after its commit (:mod:`store.consents.consents.locks`). It comes
  before, and is seen; or after, and waits until the message is marked: then that was leaving before it.
- Two messages to one person wait for each other at the row, so that the second counts the first.

A message that is refused for now goes back to `pending` and is no longer counted; at its next attempt all is
looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from models.vocabulary import MessageStatus, Suppression
from store.connection import Connection
from store.consents import locks
from store.messages import messages


@dataclass(frozen=True)
class FrequencyCap:
    """How many messages of one purpose a person gets at most within a time."""

    messages: int
    within: timedelta


async def authorize(
    connection: Connection, intent: messages.Intent, user_id: str, status: MessageStatus, cap: FrequencyCap | None
) -> Suppression | None:
    """Move a message to ``status`` (`sending`, `outbox`) unless something speaks against it: then the reason is
    returned, and it becomes `suppressed`, or `unconfirmed` where an earlier process may have sent it.

    Raises :class:`MessageWithdrawnError` where it could not come into that status any more.
    """
    if intent.purpose is not None and cap is not None:
        await connection.execute("SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE", user_id)
    await locks.share(connection, [user_id])
    reason = await objection(connection, intent, user_id, cap)
    if reason is not None:
        status = held_back(intent)
    if not await messages.settle(connection, intent.message_id, status, reason=reason):
        raise MessageWithdrawnError
    return reason


def held_back(intent: messages.Intent) -> MessageStatus:
    """What becomes of a message that something speaks against."""
    perhaps_gone = intent.status is MessageStatus.SENDING
    return MessageStatus.UNCONFIRMED if perhaps_gone else MessageStatus.SUPPRESSED


class MessageWithdrawnError(Exception):
    """The instance was cancelled between the intent and the hand-over."""


async def objection(
    connection: Connection, intent: messages.Intent, user_id: str, cap: FrequencyCap | None
) -> Suppression | None:
    """What speaks against a message as things stand: the last word is :func:`authorize`'s."""
    purpose = intent.purpose
    row = await connection.fetchrow(
        """
        SELECT EXISTS (SELECT FROM data_keys WHERE subject = $1 AND wrapped IS NOT NULL) AS present,
               $2::text IS NULL
                   OR EXISTS (SELECT FROM consents WHERE user_id = $1 AND purpose = $2 AND granted) AS consented,
               (SELECT count(*) FROM messages
                WHERE user_id = $1 AND purpose = $2 AND message_id <> $3
                  AND status IN ('outbox', 'sending', 'sent', 'unconfirmed')
                  AND left_at > now() - $4::interval) AS lately
        """,
        user_id,
        purpose.value if purpose else None,
        intent.message_id,
        cap.within if cap else timedelta(),
    )
    assert row is not None  # a row of expressions
    if not row["present"]:
        return Suppression.USER_ERASED
    if not row["consented"]:
        return Suppression.CONSENT_REQUIRED
    capped = cap is not None and purpose is not None and row["lately"] >= cap.messages
    return Suppression.FREQUENCY_CAP if capped else None
