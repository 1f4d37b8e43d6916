"""Composes messages of RFC 5322 as bytes.

Python's `email` package parses a text that is set as a header, so encoded-words in a customer's name could become
headers and a body. This module parses no text. It writes a text as it is if it is short and plain ASCII, and
otherwise in encoded-words of its own (RFC 2047), which every reader decodes to that text.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
import unicodedata
from dataclasses import dataclass
from email.utils import formatdate

_LINE = 76
_OPENING, _CLOSING = "=?utf-8?b?", "?="
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PLAIN_BODY = re.compile(r"(?:[\t -~]{0,998}\n)*")
_NEVER_IN_A_LINE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, lone surrogates, separators of lines and of paragraphs."""


@dataclass(frozen=True, repr=False)
class Mail:
    """``sender`` and ``recipient`` are addresses with a domain in ASCII form; ``sender_name`` may be empty."""

    message_id: str
    sender_name: str
    sender: str
    recipient: str
    subject: str
    body: str

    @property
    def needs_utf8(self) -> bool:
        """Whether only a server with SMTPUTF8 can transfer it, because of a local part."""
        return not (self.sender + self.recipient).isascii()

    def compose(self) -> bytes:
        """The message with lines that end in CRLF and have at most 998 bytes."""
        encoding, body = _body(self.body)
        headers = (
            _header("From", _mailbox(self.sender_name, self.sender)),
            _header("To", self.recipient),
            _header("Subject", _text(self.subject, "Subject", _PLAIN)),
            _header("Date", formatdate(time.time(), usegmt=True)),
            _header("Message-ID", f"<{self.message_id}@{self.sender.rpartition('@')[2]}>"),
            _header("MIME-Version", "1.0"),
            _header("Content-Type", 'text/plain; charset="utf-8"'),
            _header("Content-Transfer-Encoding", encoding),
        )
        return b"".join(headers) + b"\r\n" + body


def one_line(text: str) -> str:
    """The text with a space for each character that breaks lines, and for each that no mail may contain."""
    return "".join(" " if unicodedata.category(each) in _NEVER_IN_A_LINE else each for each in text)


def _header(name: str, value: str) -> bytes:
    return f"{name}: {value}\r\n".encode()


def _mailbox(name: str, address: str) -> str:
    if not name:
        return address
    return f"{_text(name, 'From', _ATOMS)}\r\n <{address}>"


def _text(text: str, header: str, plain: re.Pattern[str]) -> str:
    """A text for this header: itself if it is short and matches ``plain``, else encoded-words."""
    text = one_line(text)
    room = _LINE - len(header) - len(": ")
    if len(text) <= room and plain.fullmatch(text) and "=?" not in text:
        return text
    return "\r\n ".join(_encoded_words(text, room))


def _encoded_words(text: str, room: int) -> list[str]:
    """Encoded-words that are joined to the text; the first fits into ``room`` characters.

    A reader drops the line break between two of them, so spaces of the text are inside. Each word has whole
    characters, since it is decoded by itself.
    """
    words, held = [], b""
    for character in text:
        encoded = character.encode()
        if len(held) + len(encoded) > _bytes_in(room):
            words.append(held)
            held, room = b"", _LINE - len(" ")
        held += encoded
    return [f"{_OPENING}{base64.b64encode(word).decode()}{_CLOSING}" for word in (*words, held) if word]


def _bytes_in(room: int) -> int:
    return (room - len(_OPENING) - len(_CLOSING)) // 4 * 3


def _body(text: str) -> tuple[str, bytes]:
    """The transfer encoding, and the body in it."""
    lines = re.sub(r"\r\n?", "\n", text)
    if not lines.endswith("\n"):
        lines += "\n"
    if _PLAIN_BODY.fullmatch(lines):
        encoding, content = "7bit", lines.encode()
    else:
        encoding, content = "quoted-printable", binascii.b2a_qp(lines.encode(errors="replace"))
    return encoding, content.replace(b"\n", b"\r\n")
