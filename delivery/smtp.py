"""Delivers messages by SMTP."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import unquote, urlsplit

import aiosmtplib

from delivery.mail import Mail
from delivery.transport import Envelope, HandoverUncertainError, MessageRejectedError
from models.rules.domains import ascii_domain, with_ascii_domain
from runtime.settings import Settings, sender_parts

TIMEOUT_SECONDS = 20


class MailServerLoginError(Exception):
    """The mail server can't be logged in to; nothing was sent. The text contains no credentials."""


class SmtpTransport:
    """Sends each message on a new connection, with STARTTLS if the server offers it.

    A user name and password are sent over TLS alone: the server must offer STARTTLS, and its certificate must be
    valid. The embedded stack may also send them in the clear to a loopback address.

    SMTP has no idempotency key. All attempts have the same Message-ID, so that later mail systems can drop
    duplicates. ``about_to`` runs between RCPT and DATA. After a crash, its record shows whether the message may
    have been sent (ADR 0007).
    """

    drops_repetitions = False

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.smtp_url or "")
        self._host = ascii_domain(parts.hostname or "")
        self._implicit_tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._implicit_tls else 25)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        plain_login = settings.environment == "embedded" and _is_loopback(self._host)
        self._must_start_tls = self._user is not None and not self._implicit_tls and not plain_login
        self._sender_name, sender = sender_parts(settings.smtp_from)
        self._sender = with_ascii_domain(sender)

    async def hand_over(self, envelope: Envelope, about_to: Callable[[], Awaitable[None]]) -> None:
        """See :class:`delivery.transport.Transport`."""
        mail = self._mail(envelope)
        content = mail.compose()
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            use_tls=self._implicit_tls,
            start_tls=False if self._must_start_tls else None,  # None: where the server offers it
            timeout=TIMEOUT_SECONDS,
        )
        await client.connect()
        try:
            await self._log_in(client)
            await self._offer(client, mail)
            await about_to()
            await self._deliver(client, content)
        finally:
            client.close()

    def _mail(self, envelope: Envelope) -> Mail:
        try:
            recipient = with_ascii_domain(envelope.recipient)
        except ValueError:
            raise MessageRejectedError("the recipient's domain is not valid in IDNA 2008") from None
        return Mail(
            message_id=envelope.message_id,
            sender_name=self._sender_name,
            sender=self._sender,
            recipient=recipient,
            subject=envelope.subject,
            body=envelope.body,
        )

    async def _log_in(self, client: aiosmtplib.SMTP) -> None:
        """Send the user name and password, if there are any, after TLS. Raises :class:`MailServerLoginError`."""
        if self._user is None or self._password is None:
            return
        if self._must_start_tls:
            try:
                await client.starttls()
            except aiosmtplib.SMTPException as error:
                raise MailServerLoginError(
                    "the mail server did not start TLS, so the worker sent no password; use smtps:// or STARTTLS"
                ) from error
        try:
            await client.login(self._user, self._password)
        except aiosmtplib.SMTPException as error:  # its text is the server's, which may repeat the user name
            code = error.code if isinstance(error, aiosmtplib.SMTPResponseException) else "no method in common"
            raise MailServerLoginError(f"the mail server refused the login ({code})") from None

    async def _offer(self, client: aiosmtplib.SMTP, mail: Mail) -> None:
        try:
            options = ["SMTPUTF8"] if mail.needs_utf8 else []
            await client.mail(mail.sender, options=options, encoding="utf-8")
            await client.rcpt(mail.recipient, encoding="utf-8")
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _raise_if_permanent(error: aiosmtplib.SMTPResponseException) -> None:
    if 500 <= error.code < 600:
        raise MessageRejectedError(f"the mail server rejected the message with {error.code}") from error
