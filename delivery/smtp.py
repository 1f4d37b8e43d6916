"""Delivers messages by SMTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate, make_msgid, parseaddr
from urllib.parse import unquote, urlsplit

import aiosmtplib

from delivery.transport import Envelope, HandoverUncertainError, MessageRejectedError
from runtime.settings import Settings

TIMEOUT_SECONDS = 20


class SmtpTransport:
    """Sends each message on a new connection, with STARTTLS if the server offers it.

    SMTP has no idempotency key. All attempts have the same Message-ID, so that later mail systems can drop
    duplicates. ``about_to`` runs between RCPT and DATA. After a crash, its record shows whether the message may
    have been sent (ADR 0007).
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
        """See :class:`delivery.transport.Transport`."""
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
    """The address with its domain in IDNA, if that is possible. Its local part may still need SMTPUTF8."""
    local, _, domain = address.rpartition("@")
    try:
        return f"{local}@{domain.encode('idna').decode()}"
    except UnicodeError:
        return address


def _raise_if_permanent(error: aiosmtplib.SMTPResponseException) -> None:
    if 500 <= error.code < 600:
        raise MessageRejectedError(f"the mail server rejected the message with {error.code}") from error
