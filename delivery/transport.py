"""The protocol of message transports, and their errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


class MessageRejectedError(Exception):
    """The receiver rejected the message permanently."""


class HandoverUncertainError(Exception):
    """The connection broke or the answer was missing, so the receiver may have accepted the message."""


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
        """Whether the receiver drops repeated message ids, so that an uncertain hand-over may be retried."""
        ...

    async def hand_over(self, envelope: Envelope, about_to: Callable[[], Awaitable[None]]) -> None:
        """Deliver a message; awaits ``about_to`` immediately before sending it.

        Raises :class:`MessageRejectedError`, or :class:`HandoverUncertainError` if the outcome is unknown. With
        any other exception the message was not accepted.
        """
        ...
