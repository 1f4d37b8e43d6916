"""Recognises e-mail addresses, telephone numbers, card numbers and IBANs in texts that are stored unencrypted.

An id (`user_id`, `event_id`, `session_id`) is any short text, so :func:`looks_personal` refuses only what has the
form of an address or a telephone number:

- characters on both sides of an `@`
- `+` and 7 to 15 digits, anywhere; digits may be separated, and `(0)` may stand among them
- as the whole id, or after a word such as `tel:` or `phone-`:
  - `00` and 10 to 15 further digits, or `0` and 10 or 11 further digits
  - an area code with `0` or in parentheses, a separator, and the subscriber's number: 9 to 13 digits
  - three, three and four digits with separators, also after `1`
  - groups of digits with spaces: at least ten digits in three or more groups
- `tel:`, `phone:` and the like before 7 to 15 digits

Percent-encoding and Unicode's other forms of digits and signs don't hide them. Plain numbers, UUIDs, ULIDs, times
and dates with a counter have none of these forms.

Any other unencrypted text must be a word (:func:`is_word`).
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+-]{0,127}")
"""The form of a slug, a code or a number."""
MUST_BE_WORD = (
    "must be a short word such as web_form, of A-Z a-z 0-9 . _ : / + -, and no address or number of a person"
)

_ORDINARY = re.compile(
    r"(?!(?i:tel|phone|fax|mobile|msisdn|whatsapp|sms|cell))[0-9_.:/-]*[A-Za-z][A-Za-z0-9_.:/-]*|[1-9][0-9]*"
)
"""Most ids: nothing below can match them."""
_DECODINGS = 3
_E_MAIL = re.compile(r"[^\s@]@[^\s@]")
_GAP = r"[\s().:_\-/]{0,3}"
_INTERNATIONAL = re.compile(rf"(?<!\d)\+{_GAP}[1-9](?:{_GAP}\d){{6,14}}(?!\d)")
_LABEL = re.compile(
    r"(?:tel|telephone|phone|mobile|cell|msisdn|sms|whatsapp|fax)(?:[:=_.\-\s]+|number[:=_.\-\s]+)", re.IGNORECASE
)
_LABELLED = re.compile(r"(?:tel|telephone|phone|msisdn|whatsapp|fax)[:=]\s*[\d\s().\-/]+", re.IGNORECASE)
_NATIONAL = re.compile(
    r"00[1-9]\d{9,14}"
    r"|0[1-9]\d{9,10}"
    r"|00?[1-9]\d{0,4}[\s._\-/]+\d[\d\s._\-/]*"
    r"|\(\d{1,5}\)[\s._\-/]*\d[\d\s._\-/]*"
    r"|(?:1[\s._\-/]?)?(?:\d{3}|\(\d{3}\))[\s._\-/]+\d{3}[\s._\-/]+\d{4}"
    r"|(?=(?:\D*\d){10})\(?\d+\)?(?:\s+\(?\d+\)?){2,}"
)
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_DATE = re.compile(
    r"(?:(?:19|20)\d\d[\s.\-/]?(?:0[1-9]|1[0-2])(?:[\s.\-/]?(?:0[1-9]|[12]\d|3[01]))?"
    r"|[0-3]?\d[.\-/ ][01]?\d[.\-/ ](?:19|20)\d\d)(?!\d)"
)
_SEPARATED = re.compile(r"[\d\s._:/+-]+")
_CARD = re.compile(r"(?<![0-9A-Za-z])\d(?:[\s._\-]?\d){12,18}(?![0-9A-Za-z])")
_IBAN = re.compile(r"[A-Z]{2}\d\d[A-Z0-9]{11,30}")
_MOST_DIGITS = 6


def looks_personal(text: str) -> bool:
    """Whether a text contains an e-mail address, or has the form of a telephone number; see the module's rules."""
    if _ORDINARY.fullmatch(text):
        return False
    text = _plain(text)
    if _E_MAIL.search(text) or _INTERNATIONAL.search(text):
        return True
    if _LABELLED.fullmatch(text) and _digits(text) in range(7, 16):
        return True
    number = _LABEL.sub("", text, count=1) if _LABEL.match(text) else text
    is_telephone = _NATIONAL.fullmatch(number) and _DATE.match(number) is None
    return bool(is_telephone) and _digits(number) in range(9, 18)


def identifies_person(text: str) -> bool:
    """Whether a text :func:`looks_personal`, contains the number of a payment card, or is an IBAN."""
    return looks_personal(text) or any(_passes_luhn(each[0]) for each in _CARD.finditer(text)) or _is_iban(text)


def is_word(text: str) -> bool:
    """Whether a text is a slug or a code of up to 128 characters, and no address or number of a person."""
    return WORD.fullmatch(text) is not None and not identifies_person(text)


def is_dimension(value: object) -> bool:
    """Whether a value may be stored unencrypted for analytics: a word, a short number, or true or false.

    Longer numbers may be telephone or customer numbers. A date such as 2026-11-30 is no longer number.
    """
    if isinstance(value, str):
        return is_word(value) and not _is_long_number(value)
    if isinstance(value, bool):
        return True
    return isinstance(value, int | float) and abs(value) < 10**_MOST_DIGITS


def _is_long_number(text: str) -> bool:
    return bool(_SEPARATED.fullmatch(text)) and _digits(text) > _MOST_DIGITS and not _DATE.fullmatch(text)


def _plain(text: str) -> str:
    """The text without percent-encoding, and with ASCII digits and signs."""
    for _ in range(_DECODINGS):
        if "%" not in text:
            break
        text = unquote(text)
    if text.isascii():
        return text.strip()
    text = _DASHES.sub("-", unicodedata.normalize("NFKC", text))
    return "".join(str(unicodedata.decimal(each, each)) for each in text).strip()


def _digits(text: str) -> int:
    return sum(character.isdecimal() for character in text)


def _passes_luhn(card: str) -> bool:
    """The check of payment cards (ISO/IEC 7812-1)."""
    digits = [int(character) for character in reversed(card) if character.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """The check of account numbers (ISO 13616)."""
    account = re.sub(r"[._:/+-]", "", text).upper()
    if _IBAN.fullmatch(account) is None:
        return False
    turned = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1
