"""The transports of messages: what each implements, and the errors it raises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


class MessageRejectedError(Exception):
    """The receiver rejected the message; another attempt would not help."""


class HandoverUncertainError(Exception):
    """The connection broke, or no answer came, while the receiver had the message: it may have kept it."""


@dataclass(frozen=True, repr=False)
class Envelope:
    """A rendered message. ``message_id`` is the same at every attempt."""

    message_id: str
    recipient: str
    subject: str
    body: str
    template: str


class Transport(Protocol):
    """Delivers messages of one channel."""

    @property
    def drops_repetitions(self) -> bool:
        """Whether the receiver drops a message whose id it knows, so that an uncertain one may be sent again."""
        ...

    async def hand_over(self, envelope: Envelope, about_to: Callable[[], Awaitable[None]]) -> None:
        """Deliver a message; awaits ``about_to`` immediately before the message leaves.

        Raises :class:`MessageRejectedError`, :class:`HandoverUncertainError` where the outcome can't be known, and
        any other exception where the message certainly did not leave.
        """
        ...
