"""An SMTP server that keeps its messages, and can be made to fail."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Awaitable, Callable
from email import message_from_bytes
from email.message import Message
from types import TracebackType
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

Answer = Callable[[Message], Awaitable[str | None]]


class MailServer:
    """Listens on a free port of 127.0.0.1. ``answer`` returns the answer to DATA; None accepts.

    ``tls`` offers STARTTLS. ``logins`` offers AUTH, also without TLS.

    Example::

        async def test_the_message_waits(runs: Runs, customer: Customer, mail: MailServer) -> None:
            mail.refuse("451 come back later", times=2)
            await runs.ended(await runs.start(customer.user_id, "renewal_reminder"))
            assert len(mail.to(customer.email)) == 1
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, logins: bool = False) -> None:
        self.received: list[Message] = []
        self.contents: list[bytes] = []
        """The received messages as they came."""
        self.recipients: list[str] = []
        """The addresses of RCPT."""
        self.in_the_clear = b""
        """The bytes that came without TLS."""
        self.refuse_logins: str | None = None
        self.logins: list[tuple[bytes, bytes]] = []
        self._tls = tls
        self._offers_login = logins
        self.answer: Answer | None = None
        self.refuse_recipients: str | None = None
        self.on_recipient: Callable[[str], None] | None = None
        self.hold_recipients: asyncio.Event | None = None
        """The server answers RCPT only after this event is set."""
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def to(self, address: str) -> list[Message]:
        """Messages to one address.

        Example::

            [message] = mail.to(customer.email)
            assert "renews in a week" in message.as_string()
        """
        return [message for message in self.received if message["To"] == address]

    def subjects(self, address: str) -> list[str]:
        """Subjects of the messages to one address, in the order of their receipt.

        Example::

            assert mail.subjects(customer.email) == [f"{customer.name}, your subscription renews soon"]
        """
        return [str(message["Subject"]) for message in self.to(address)]

    def refuse(self, answer: str = "451 come back later", *, times: int | None = None) -> None:
        """Refuse the next messages, or all until :meth:`accept`. 4xx is retried, 5xx fails the step at once.

        Example::

            mail.refuse("550 no such mailbox")
        """
        refused = itertools.count(1)

        async def answer_to(message: Message) -> str | None:
            return answer if times is None or next(refused) <= times else None

        self.answer = answer_to

    def accept(self) -> None:
        """Accept messages again.

        Example::

            mail.accept()
        """
        self.answer = self.refuse_recipients = None

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[Any]
    ) -> str:
        if self.on_recipient:
            self.on_recipient(address)
        if self.hold_recipients:
            await self.hold_recipients.wait()
        if self.refuse_recipients:
            return self.refuse_recipients
        self.recipients.append(address)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content)
        verdict = await self.answer(message) if self.answer else None
        if verdict is None or verdict.startswith("2"):
            self.received.append(message)
            self.contents.append(envelope.content)
        return verdict or "250 kept"

    async def after(self, condition: Callable[[], bool], within: float = 60.0) -> None:
        """Wait until a condition holds.

        Example::

            await mail.after(lambda: len(mail.received) == 2)
        """
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(0.02)

    async def __aenter__(self) -> MailServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, loop), "127.0.0.1", 0)
        return self

    def connection_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"enable_SMTPUTF8": True, "tls_context": self._tls}
        if self._offers_login:
            options |= {"authenticator": self._authenticate, "auth_require_tls": False}
        return options

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, method: str, data: Any
    ) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=not self.refuse_logins, handled=False, message=self.refuse_logins)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()


class _Connection(SMTP):
    def __init__(self, server: MailServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, **server.connection_options())
        self._of = server

    def data_received(self, data: bytes) -> None:
        if self.session is None or self.session.ssl is None:
            self._of.in_the_clear += data
        super().data_received(data)
