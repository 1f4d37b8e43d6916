"""Recognises e-mail addresses, telephone numbers, card numbers and IBANs in texts that are stored unencrypted.

An id (`user_id`, `event_id`, `session_id`) is any short text, so :func:`looks_personal` refuses only what has the
form of an address or a telephone number:

- characters on both sides of an `@`, or of `(at)` before a domain
- a payment card's number in groups, or an IBAN
- `+` and 7 to 15 digits, anywhere; digits may be separated, and `(0)` may stand among them
- as the whole id, or after a word such as `tel:` or `phone-`:
  - `00` and 10 to 15 further digits, or `0` and 10 or 11 further digits
  - an area code with `0` or in parentheses, a separator, and the subscriber's number: 9 to 13 digits
  - three, three and four digits with separators, also after `1`
  - groups of digits with spaces: at least ten digits in three or more groups
- `tel:`, `phone:` and the like before 7 to 15 digits

Percent-encoding and Unicode's other forms of digits and signs don't hide them. Plain numbers, UUIDs, ULIDs, times
and dates with a counter have none of these forms.

Any other unencrypted text must be a word (:func:`is_word`), or a label (:func:`is_label`).
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
_E_MAIL = re.compile(
    r"[^\s@]@[^\s@]"
    r"|\S\s*(?:@|[\[({<]\s*at\s*[\])}>])\s*[\w-]+\s*(?:\.|[\[({<]\s*dot\s*[\])}>])\s*\w",
    re.IGNORECASE,
)
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
_GROUPED_CARD = re.compile(r"(?<!\d)[2-6]\d{3}([\s._\-])(?:\d{4}\1\d{4}\1\d{4}|\d{6}\1\d{5})(?!\d)")
_MAYBE_IBAN = re.compile(r"\s*[A-Za-z]{2}[\s._:/+-]?\d\d")
_IBAN = re.compile(r"[A-Z]{2}\d\d[A-Z0-9]{11,30}")
_IBANS = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
"""Countries by the length of their IBANs. Otherwise one of 97 ids with a country's code would be refused."""
_MOST_DIGITS = 6


def looks_personal(text: str) -> bool:
    """Whether a text contains an address or a number of a person; see the module's rules."""
    if _ORDINARY.fullmatch(text):
        return text[1:2].isalpha() and _is_iban(text)
    text = _plain(text)
    if _E_MAIL.search(text) or _INTERNATIONAL.search(text):
        return True
    if any(_passes_luhn(each[0]) for each in _GROUPED_CARD.finditer(text)) or _is_iban(text):
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


def is_label(text: str) -> bool:
    """Whether a text is a word and no number of more than six digits, which may be a telephone number.

    A date such as 2026-11-30 is no such number.
    """
    return is_word(text) and not _is_long_number(text)


def is_dimension(value: object) -> bool:
    """Whether a value may be stored unencrypted for analytics: a word, a short number, or true or false.

    Longer numbers may be telephone or customer numbers. A date such as 2026-11-30 is no longer number.
    """
    if isinstance(value, str):
        return is_label(value)
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
    if _MAYBE_IBAN.match(text) is None:
        return False
    account = re.sub(r"[\s._:/+-]", "", text).upper()
    if _IBAN.fullmatch(account) is None or account[:2] not in _IBANS.get(len(account), "").split():
        return False
    turned = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1
