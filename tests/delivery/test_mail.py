"""Messages as bytes: each text arrives as it was written, and none is read as a header."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import pytest
from fast_mail_parser import parse_email
from hypothesis import example, given
from hypothesis import strategies as st

from delivery.mail import Mail, one_line
from delivery.smtp import SmtpTransport
from delivery.templates import TEMPLATES
from delivery.transport import Envelope
from runtime.settings import Settings
from testing.mail import MailServer

INJECTION = (
    "=?utf-8?q?=0D=0AReply-To:_evil=40example.org=0D=0A=0D=0AYour_account_is_locked?=",
    "=?utf-8?b?DQpSZXBseS1UbzogZXZpbEBleGFtcGxlLm9yZw0KDQpZb3VyIGFjY291bnQgaXMgbG9ja2Vk?=",
    "=?utf-8?q?Your_account_is_locked?=",
    "Ada =?iso-8859-1?Q?=0A?= =?utf-8?q?Bcc=3A?=",
)
NAMES = (
    *INJECTION,
    "Юлия Александровна Смирнова",
    "Παναγιώτης  Παπαδόπουλος",
    "عبد الرحمن بن محمد",
    "राजेश कुमार शर्मा",
    "山田\u3000太郎",
    "Jean\u00a0Luc",
    "\u202eevil\u202c",
    "👩‍👩‍👧‍👦" * 30,
    "a" + "\u0301" * 299,
    "Wolfeschlegelsteinhausenbergerdorff" * 8,
    'Ada, Countess <of> "Lovelace" \\ (x): y; z@example.com',
    "tre?=",
)
MAIL = Mail("0" * 32, "Perennial", "no-reply@example.com", "ada@example.com", "Hello", "Hello\n")
TEXTS = st.text(max_size=300)


def headers(content: bytes) -> list[bytes]:
    """The header fields' names."""
    head = content.partition(b"\r\n\r\n")[0]
    return [line.partition(b":")[0] for line in head.split(b"\r\n") if not line.startswith(b" ")]


def well_formed(content: bytes, fields: int = 8) -> None:
    head, _, body = content.partition(b"\r\n\r\n")
    assert content.isascii()
    assert all(len(line) <= 76 for line in head.split(b"\r\n"))
    assert all(len(line) <= 998 for line in body.split(b"\r\n"))
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n", content)
    assert len(headers(content)) == fields


@given(TEXTS, TEXTS, TEXTS)
@example(INJECTION[0], INJECTION[1], INJECTION[2])
@example("Welcome, Юлия Александровна Смирнова", " Ü ", "\r\n.\r\n\r\nFrom x\n")
@example("\u2028Reply-To: x", "a\ud800b", "\x00\ud800")
@example("x" * 2000, "y " * 500, "z" * 3000)
@example("  a  b  ", '"Ada"', " \t\n= \n")
def test_another_library_reads_each_text_as_it_was_written(subject: str, name: str, body: str) -> None:
    content = replace(MAIL, subject=subject, sender_name=name, body=body).compose()
    well_formed(content)
    read = parse_email(content)
    assert read.subject == one_line(subject)
    shown = f"{one_line(name)} <{MAIL.sender}>" if name else MAIL.sender
    assert read.headers["From"] == [shown]
    lines = re.sub(r"\r\n?", "\n", body).encode(errors="replace").decode()
    assert "".join(read.text_plain).replace("\r\n", "\n") == lines + ("" if lines.endswith("\n") else "\n")


@given(st.text(max_size=1000))
def test_one_line_keeps_every_character_but_those_that_break_a_line(text: str) -> None:
    kept = one_line(text)
    assert len(kept) == len(text)
    assert len(kept.splitlines()) <= 1
    kept.encode()
    assert all(
        was == now or (now == " " and unicodedata.category(was) in ("Cc", "Cs", "Zl", "Zp"))
        for was, now in zip(text, kept, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
async def test_a_customers_name_arrives_on_the_wire_as_it_was_written(
    name: str, mail: MailServer, worker_settings: Settings
) -> None:
    transport = SmtpTransport(worker_settings.model_copy(update={"smtp_from": f"{name} <shop@example.com>"}))
    for template in ("welcome", "onboarding_nudge"):
        subject, body = TEMPLATES[template].render(name)
        await transport.hand_over(Envelope("0" * 32, "ada@example.com", subject, body, template), _noted)
        content = mail.contents[-1]
        well_formed(content)
        read = parse_email(content)
        assert (read.subject, "".join(read.text_plain).replace("\r\n", "\n")) == (subject, body)
        assert name.strip() in read.subject
        assert name.strip() in body
        assert read.headers["From"] == [f"{name.strip()} <shop@example.com>".strip()]
        assert set(headers(content)) == {
            b"From",
            b"To",
            b"Subject",
            b"Date",
            b"Message-ID",
            b"MIME-Version",
            b"Content-Type",
            b"Content-Transfer-Encoding",
        }


@pytest.mark.parametrize(
    ("written", "on_the_wire"),
    [
        ("info@straße.example", "info@xn--strae-oqa.example"),
        ("info@BÜCHER.example", "info@xn--bcher-kva.example"),
        ("Info@Example.COM", "Info@example.com"),
        ("info@xn--strae-oqa.example", "info@xn--strae-oqa.example"),
        ("info@faß。example", "info@xn--fa-hia.example"),
        ("jürgen@βόλος.example", "jürgen@xn--nxasmm1c.example"),
    ],
)
async def test_mail_goes_to_the_domain_that_idna_2008_names(
    written: str, on_the_wire: str, mail: MailServer, worker_settings: Settings
) -> None:
    sender = "Büro <büro@straße.example>" if "jürgen" in written else "Büro <buero@straße.example>"
    transport = SmtpTransport(worker_settings.model_copy(update={"smtp_from": sender}))
    await transport.hand_over(Envelope("0" * 32, written, "Hello", "Hello\n", "welcome"), _noted)
    read = parse_email(mail.contents[-1])
    assert mail.recipients == [on_the_wire]
    assert read.headers["To"] == [on_the_wire]
    assert read.headers["From"][0].endswith("@xn--strae-oqa.example>")
    assert read.headers["Message-ID"] == [f"<{'0' * 32}@xn--strae-oqa.example>"]


async def _noted() -> None:
    pass
