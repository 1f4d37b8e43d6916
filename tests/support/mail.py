"""An SMTP server that keeps its messages, and can be made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from email import message_from_bytes
from email.message import Message
from types import TracebackType
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

Answer = Callable[[Message], Awaitable[str | None]]


class MailServer:
    """Listens on a free port of 127.0.0.1. ``answer`` returns the answer to DATA; None accepts."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.answer: Answer | None = None
        self.refuse_recipients: str | None = None
        self.on_recipient: Callable[[str], None] | None = None
        self.hold_recipients: asyncio.Event | None = None
        """The server answers RCPT only after this event is set."""
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"smtp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def to(self, address: str) -> list[Message]:
        """Messages to one address."""
        return [message for message in self.received if message["To"] == address]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[Any]
    ) -> str:
        if self.on_recipient:
            self.on_recipient(address)
        if self.hold_recipients:
            await self.hold_recipients.wait()
        if self.refuse_recipients:
            return self.refuse_recipients
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content)
        verdict = await self.answer(message) if self.answer else None
        if verdict is None or verdict.startswith("2"):
            self.received.append(message)
        return verdict or "250 kept"

    async def after(self, condition: Callable[[], bool], within: float = 60.0) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(0.02)

    async def __aenter__(self) -> MailServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
