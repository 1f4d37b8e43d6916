"""Logins to mail servers: the password is sent over TLS, or not at all."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator

import pytest

from delivery.smtp import MailServerLoginError, SmtpTransport
from delivery.transport import Envelope
from runtime.embedded.certificates import ServerCertificate, ensure_certificate
from runtime.settings import ConfigurationError, Settings, load_settings
from testing.mail import MailServer

PASSWORD = "s3cret pass"
MESSAGE = Envelope("0" * 32, "ada@example.com", "Hello", "Hello\n", "welcome")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return ensure_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def secured(certificate: ServerCertificate) -> AsyncIterator[MailServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    async with MailServer(tls=context, logins=True) as server:
        yield server


@pytest.fixture
async def plain() -> AsyncIterator[MailServer]:
    async with MailServer(logins=True) as server:
        yield server


def transport(
    server: MailServer,
    *,
    environment: str = "production",
    host: str = "127.0.0.1",
    login: str = "ada:s3cret%20pass@",
) -> SmtpTransport:
    url = f"smtp://{login}{host}:{server.port}"
    return SmtpTransport(Settings(environment=environment, smtp_url=url))


async def _noted() -> None:
    pass


def shows_no_login(server: MailServer) -> bool:
    tokens = (PASSWORD.encode(), base64.b64encode(b"\0ada\0" + PASSWORD.encode()), b"AUTH")
    return not any(token in server.in_the_clear for token in tokens)


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ("production", "127.0.0.1"),
        ("staging", "127.0.0.1"),
        ("development", "127.0.0.1"),
        ("embedded", "localhost"),
    ],
)
async def test_a_server_without_starttls_gets_no_password(plain: MailServer, environment: str, host: str) -> None:
    with pytest.raises(MailServerLoginError) as refused:
        await transport(plain, environment=environment, host=host).hand_over(MESSAGE, _noted)
    assert "STARTTLS" in str(refused.value)
    assert "s3cret" not in str(refused.value)
    assert (plain.logins, plain.received, shows_no_login(plain)) == ([], [], True)


async def test_the_embedded_stack_logs_in_to_a_loopback_address_without_tls(plain: MailServer) -> None:
    await transport(plain, environment="embedded").hand_over(MESSAGE, _noted)
    assert (plain.logins, len(plain.received)) == ([(b"ada", PASSWORD.encode())], 1)


async def test_the_error_of_a_refused_login_does_not_repeat_the_servers_text(plain: MailServer) -> None:
    plain.refuse_logins = f"535 ada may not log in with {PASSWORD}"
    with pytest.raises(MailServerLoginError) as refused:
        await transport(plain, environment="embedded").hand_over(MESSAGE, _noted)
    assert str(refused.value) == "the mail server refused the login (535)"
    assert refused.value.__cause__ is None


async def test_without_a_login_a_message_needs_no_tls(plain: MailServer) -> None:
    await transport(plain, login="").hand_over(MESSAGE, _noted)
    assert len(plain.received) == 1


async def test_the_password_is_sent_after_starttls_alone(
    secured: MailServer, certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    await transport(secured).hand_over(MESSAGE, _noted)
    assert (secured.logins, len(secured.received)) == ([(b"ada", PASSWORD.encode())], 1)
    assert b"STARTTLS" in secured.in_the_clear
    assert shows_no_login(secured)


@pytest.mark.parametrize("login", ["ada:s3cret%20pass@", ""])
async def test_a_server_with_an_unknown_certificate_gets_nothing(secured: MailServer, login: str) -> None:
    with pytest.raises(ssl.SSLError):
        await transport(secured, login=login).hand_over(MESSAGE, _noted)
    assert (secured.logins, secured.received, shows_no_login(secured)) == ([], [], True)


@pytest.mark.parametrize(
    "value", ["smtp://ada@mail.example.com", "smtps://:s3cret@h", "smtp://ada:s3cret%0d%0a@h"]
)
def test_half_a_login_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PERENNIAL_SMTP_URL", value)
    with pytest.raises(ConfigurationError, match=r"PERENNIAL_SMTP_URL can't be used: .+\.") as raised:
        load_settings()
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "value",
    [
        "Ada",
        "Ada <a b@x.example>",
        "Ada <a@☃.example>",
        "A <a@x.example> b",
        "\u2028 <a@x.example>",
        "a@b@",
        "<a@x",
    ],
)
def test_a_sender_without_an_address_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PERENNIAL_SMTP_FROM", value)
    with pytest.raises(ConfigurationError, match=r"PERENNIAL_SMTP_FROM can't be used: .+\."):
        load_settings()
