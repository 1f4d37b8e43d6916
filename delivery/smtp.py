"""Handing messages over to the outside: by SMTP, or to nobody where none is configured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate, make_msgid, parseaddr
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib

from runtime.settings import Settings

TIMEOUT_SECONDS = 20


class MessageRejectedError(Exception):
    """The mail server refused the message for good (5xx); trying again would not help."""


class HandoverUncertainError(Exception):
    """The connection broke, or there was no answer, while the other side had the message: nobody can know whether
    it kept it."""


@dataclass(frozen=True, repr=False)
class Envelope:
    """One message, ready to go. ``message_id`` is the same at every attempt."""

    message_id: str
    recipient: str
    subject: str
    body: str
    template: str


class Transport(Protocol):
    """A way out for messages."""

    @property
    def drops_repetitions(self) -> bool:
        """Whether the receiver knows a repeated message by its id, so that an uncertain one may go again."""
        ...

    async def hand_over(self, envelope: Envelope, about_to: Callable[[], Awaitable[None]]) -> None:
        """Deliver. ``about_to`` is awaited at the last moment before the message itself leaves.

        Raises :class:`MessageRejectedError` for good, :class:`HandoverUncertainError` when the outcome can't be known,
        and anything else when the message certainly didn't leave.
        """
        ...


class SmtpTransport:
    """Delivery by SMTP, one connection a message; STARTTLS where the server offers it.

    SMTP has no idempotency key. The Message-ID stays the same at every attempt, for what lies behind the
    server; and ``about_to`` runs between RCPT and DATA, so that whoever records it knows afterwards whether
    a process died before the message could leave, or possibly after (ADR 0007).
    """

    drops_repetitions = False

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.smtp_url or "")
        self._host = parts.hostname
        self._implicit_tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._implicit_tls else 25)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._sender = settings.smtp_from
        self._sender_address = parseaddr(settings.smtp_from)[1]

    async def hand_over(self, envelope: Envelope, about_to: Callable[[], Awaitable[None]]) -> None:
        """See :class:`Transport`."""
        envelope = replace(envelope, recipient=in_ascii_where_possible(envelope.recipient))
        content = self._compose(envelope)
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            use_tls=self._implicit_tls,
            username=self._user,
            password=self._password,
            timeout=TIMEOUT_SECONDS,
        )
        await client.connect()
        try:
            await self._offer(client, envelope)
            await about_to()
            await self._deliver(client, content)
        finally:
            client.close()

    async def _offer(self, client: aiosmtplib.SMTP, envelope: Envelope) -> None:
        try:
            options = [] if envelope.recipient.isascii() else ["SMTPUTF8"]
            await client.mail(self._sender_address, options=options, encoding="utf-8")
            await client.rcpt(envelope.recipient, encoding="utf-8")
        except aiosmtplib.SMTPResponseException as error:
            _raise_if_permanent(error)
            raise

    async def _deliver(self, client: aiosmtplib.SMTP, content: bytes) -> None:
        try:
            await client.data(content)
        except aiosmtplib.SMTPResponseException as error:
            _raise_if_permanent(error)
            raise
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise HandoverUncertainError("the connection broke during DATA") from error

    def _compose(self, envelope: Envelope) -> bytes:
        message = EmailMessage(policy=SMTP if envelope.recipient.isascii() else SMTPUTF8)
        message["From"] = self._sender
        message["To"] = envelope.recipient
        message["Subject"] = envelope.subject
        message["Date"] = formatdate(usegmt=True)
        domain = self._sender_address.rpartition("@")[2] or make_msgid().strip("<>").rpartition("@")[2]
        message["Message-ID"] = f"<{envelope.message_id}@{domain}>"
        message.set_content(envelope.body)
        return message.as_bytes()


def in_ascii_where_possible(address: str) -> str:
    """An address with its domain in ASCII (IDNA); a local part beyond ASCII needs SMTPUTF8 all the same."""
    local, _, domain = address.rpartition("@")
    try:
        return f"{local}@{domain.encode('idna').decode()}"
    except UnicodeError:
        return address


def _raise_if_permanent(error: aiosmtplib.SMTPResponseException) -> None:
    if 500 <= error.code < 600:
        raise MessageRejectedError(f"the mail server refused the message with {error.code}") from error
