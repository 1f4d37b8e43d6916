"""Scalar types of the API and the base classes of its schemas.

Every check raises :class:`pydantic_core.PydanticCustomError` with a stable code. Its text says what is required
and never repeats the value. Types are checked before content: a number instead of a string is `invalid_type`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Annotated, Any, LiteralString

import email_validator
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictStr,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from models.errors import FieldError
from models.rules import personal_text, standards
from models.rules.domains import with_ascii_domain
from models.rules.personal_text import is_label, looks_personal
from models.rules.profile import age_on

# the library's documented switch: companies use `.local` and the like for internal addresses
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

# Not `.` and `..`, which clients remove from paths. The pattern has no look-ahead, as pydantic has none.
USER_ID_PATTERN = re.compile(r"(?:\.{0,1}[A-Za-z0-9_:-]|\.\.[A-Za-z0-9._:-])[A-Za-z0-9._:-]*")
USER_ID_LENGTH = 128
USER_ID_FORM = "must be 1 to 128 of A-Z a-z 0-9 . _ : - and neither . nor .., such as u-1"
RESERVED_USER_IDS = frozenset({"null", "undefined", "none", "anonymous", "0"})
_YEARS = range(1900, 9999)  # excludes times that Postgres can't store, and times before any signup
_ALL_YEARS = range(1, 10_000)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EMAIL_LENGTH = 254
MAX_AGE = 150
_MOST_EXAMINED = 512


class RequestSchema(BaseModel):
    """Base of requests: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class UnusableItem:
    """Replaces an item of a batch that was parsed but can't be stored. It is rejected with these errors."""

    __slots__ = ("errors", "item")

    def __init__(self, item: object, errors: Sequence[FieldError]) -> None:
        self.item = item
        self.errors = tuple(errors)


class ResponseSchema(BaseModel):
    """Base of responses."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True)


def omittable() -> Any:
    """The default of a field that may be missing but not null."""
    # a default factory isn't validated, so the field's type can exclude None
    return Field(default_factory=lambda: None)


@functools.lru_cache(maxsize=8192)  # a batch names the same users again and again
def _user_id(value: str) -> str:
    # The start of a longer text is enough, because the text is refused anyway.
    if "@" in value or looks_personal(value[:_MOST_EXAMINED]):
        raise PydanticCustomError(
            "user_id_is_personal",
            "must not be an e-mail address or a telephone number: it travels in URLs and workflow ids",
        )
    # Each text is measured before anything reads it: a parser may need a second for some megabytes.
    if len(value) > USER_ID_LENGTH or USER_ID_PATTERN.fullmatch(value) is None:
        raise PydanticCustomError("invalid_user_id", USER_ID_FORM)
    if value.casefold() in RESERVED_USER_IDS:
        raise PydanticCustomError("user_id_reserved", "is a reserved word")
    return value


def is_user_id(value: str) -> bool:
    return (
        len(value) <= USER_ID_LENGTH
        and USER_ID_PATTERN.fullmatch(value) is not None
        and value.casefold() not in RESERVED_USER_IDS
    )


def _email(value: str) -> str:
    parts = None
    if len(value) <= _EMAIL_LENGTH:
        with suppress(email_validator.EmailNotValidError):
            parts = email_validator.validate_email(value, check_deliverability=False, globally_deliverable=False)
    if parts is None or "." not in parts.domain:
        raise PydanticCustomError("invalid_email", "must be an e-mail address like name@example.com")
    return value


def _sendable(value: str) -> str:
    """Check that mail can be sent to an address under its own name."""
    try:
        with_ascii_domain(value)
    except ValueError:
        raise PydanticCustomError("invalid_email", "must have a domain that IDNA 2008 allows") from None
    if "=?" in value:  # mail readers would decode it
        raise PydanticCustomError("invalid_email", "must not contain an encoded-word of RFC 2047")
    return value


def _text(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "must not be blank")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise PydanticCustomError("invalid_characters", "must not contain control characters")
    return value


def _word(value: str, field: ValidationInfo) -> str:
    if not is_label(_text(value)):
        raise PydanticCustomError(_is_personal(field), personal_text.MUST_BE_WORD)
    return value


def _public_text(value: str, field: ValidationInfo) -> str:
    if personal_text.identifies_person(value):
        raise PydanticCustomError(
            _is_personal(field), "must not contain an e-mail address, a telephone number or a card number"
        )
    return value


def _is_personal(field: ValidationInfo) -> LiteralString:
    return f"{field.field_name}_is_personal"


def parse_timestamp(value: str, years: range = _YEARS) -> datetime:
    """Parse an RFC 3339 time with an offset into UTC. Raises ValueError for other texts and years."""
    if _MOMENT.fullmatch(value) is None:
        raise ValueError("not RFC 3339")
    try:
        moment = datetime.fromisoformat(value if value.isupper() else value.upper())
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None
    if moment.year not in years:
        raise ValueError("out of range")
    return moment


def _timestamp(value: object) -> datetime:
    return _timestamp_in(value, _YEARS)


def _any_timestamp(value: object) -> datetime:
    return _timestamp_in(value, _ALL_YEARS)


def _timestamp_in(value: object, years: range) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if not isinstance(value, str):
        raise PydanticCustomError("invalid_type", "must be a string")
    try:
        return parse_timestamp(value, years)
    except ValueError:
        raise PydanticCustomError(
            "invalid_time", "must be a time with an offset, like 2026-01-05T10:00:00Z (RFC 3339)"
        ) from None


def _past_date(value: str) -> str:
    try:
        if _DATE.fullmatch(value) is None:
            raise ValueError("not a date")
        day = date.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("invalid_date", "must be a date like 1992-01-31") from None
    today = datetime.now(UTC).date()
    if day > today:
        raise PydanticCustomError("date_in_future", "must not be in the future")
    if age_on(today, day) > MAX_AGE:
        raise PydanticCustomError("too_small", "must be at most 150 years ago")
    return value


def _country(value: str) -> str:
    code = value.upper() if len(value) == 2 else ""
    if code not in standards.countries():
        raise PydanticCustomError("unknown_country", "must be a country code of ISO 3166-1 alpha-2, like DE")
    return code


def _timezone(value: str) -> str:
    if value not in standards.time_zones():
        raise PydanticCustomError("unknown_timezone", "must be the name of an IANA time zone, like Europe/Berlin")
    return value


def _language(value: str) -> str:
    if not standards.is_language(value):
        raise PydanticCustomError(
            "invalid_language", "must be a language tag of BCP 47 with registered subtags, like de or pt-BR"
        )
    return value


def _schema(**schema: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **schema})


UserId = Annotated[
    StrictStr,
    AfterValidator(_user_id),
    _schema(pattern=f"^{USER_ID_PATTERN.pattern}$", minLength=1, maxLength=128, examples=["u-1"]),
]
Email = Annotated[
    StrictStr,
    AfterValidator(_email),
    AfterValidator(_sendable),
    _schema(format="email", maxLength=_EMAIL_LENGTH),
]
Name = Annotated[StrictStr, Field(max_length=300), AfterValidator(_text)]
City = Annotated[StrictStr, Field(max_length=200), AfterValidator(_text)]
ShortText = Annotated[StrictStr, Field(max_length=64), AfterValidator(_text)]
Word = Annotated[
    StrictStr,
    Field(max_length=64),
    AfterValidator(_word),
    _schema(pattern="^[A-Za-z0-9][A-Za-z0-9_.:/+-]*$", minLength=1, maxLength=64),
]
"""A text that is stored unencrypted: a slug or a code. The error's code is the field's name and `_is_personal`."""
PublicText = AfterValidator(_public_text)
"""For an admin's text that is stored unencrypted and shown: no address or telephone number in it."""
Timestamp = Annotated[datetime, BeforeValidator(_timestamp), _schema(format="date-time")]
AnyTimestamp = Annotated[datetime, BeforeValidator(_any_timestamp), _schema(format="date-time")]
"""For times that are compared with a window later: the year 9999 is then too late, and not malformed."""
PastDate = Annotated[StrictStr, AfterValidator(_past_date), _schema(format="date")]
Country = Annotated[StrictStr, AfterValidator(_country), _schema(minLength=2, maxLength=2, examples=["DE"])]
TimeZone = Annotated[StrictStr, AfterValidator(_timezone), _schema(examples=["Europe/Berlin"])]
Language = Annotated[
    StrictStr, AfterValidator(_language), _schema(maxLength=standards.LANGUAGE_LENGTH, examples=["de", "pt-BR"])
]
