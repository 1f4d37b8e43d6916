"""The rules that tell e-mail addresses and numbers of people from ids and words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules.personal_text import is_dimension, is_label, is_word, looks_personal

ADDRESSES = [
    "ada@example.com",
    "ADA%40Example.COM",
    "ada%2540example.com",
    "x-ada@example.com-1",
    "ada\uff20example.com",
    "mailto:ada@example.com",
    "ada@localhost",
    "ada @ example.com",
    "ada (at) example.com",
    "ada [at] example [dot] com",
]
ACCOUNTS = [
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "5500.0000.0000.0004",
    "3782-822463-10005",
    "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00",
    "gb29-nwbk-6016-1331-9268-19",
]
TELEPHONES = [
    "+491701234567",
    "+49 170 1234567",
    "+49 (0)170 1234567",
    "+49-170-1234567",
    "+49_170_1234567",
    "+49\u00a0170\u00a01234567",
    "+49\u2013170\u20131234567",
    "\uff0b\uff14\uff19\uff11\uff17\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17",
    "+\u0664\u0669\u0661\u0667\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667",
    "%2B491701234567",
    "%252b491701234567",
    "session-+491701234567",
    "+1 (555) 123-4567",
    "tel:+491701234567",
    "TEL:01701234567",
    "tel:5551234",
    "phone:491701234567",
    "phone-0170-1234567",
    "whatsapp:+4917012345",
    "0170 1234567",
    "0170-1234567",
    "0170/1234567",
    "0170.1234567",
    "01701234567",
    "020 7946 0018",
    "06 12 34 56 78",
    "(0)170 1234567",
    "00491701234567",
    "0049 170 1234567",
    "0049-170-1234567",
    "(555) 123-4567",
    "(030) 1234567",
    "555-123-4567",
    "555.123.4567",
    "555 123 4567",
    "1-555-123-4567",
    "49 170 1234567",
    "0170\u20131234567",
    "evt_+49-170-1234567",
    "01 23 45 67 89",
    "(555)123-4567",
    "800-555-1234",
]
IDS = [
    *("0", "000123", "12345678", "0000012345", "0100012345", "00000000000000000001", "4917012345678"),
    *("1764500000", "1764500000000", "17645000001234567", "12345678901234567890", "1764500000-123"),
    *(
        "order-20261130-0001",
        "20261130-0001",
        "2026-11-30",
        "2026-11-30-0001",
        "30.11.2026-001",
        "01.12.2026-00012",
    ),
    *("2026-11-30T10:00:00Z", "2026-11-30T10:00:00.000+01:00", "2026-11-30T10:00:00+10:00-0001234"),
    *("123e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-000000000001", "0" * 32),
    *("01234567-8901-2345-6789-012345678901", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "0x1234567890"),
    *("e-1", "evt_12345678", "1.2.3+20261130", "192.168.1.100", "302-1234567-1234567", "cart:1234567890"),
    *("mobile-1764500000", "phone-1764500000", "sms-20261130-1", "12-345-678901", "1001/2002/3003", "q/8+1234="),
    *("100 200 300", "1 2 3 4 5 6 7 8 9", "0000-0001-2345-6789", "12:34:56.789", "123-456-789", "20261130100000"),
    *("session 12 of 300000", "batch 2026 11 30 0001", "2026 11 30 0001", "@", "a+b"),
    *("4111-1111-1111-1112", "1111-2222-3333-4444", "US89370400440532013000", "DE8937040044053201300", "job @ 5"),
]
WORDS = [
    "web_form",
    "import:crm-2026",
    "2026-01",
    "2026-01-01",
    "20260101",
    "v1.2.3",
    "PayPal",
    "USD",
    "google/cpc",
]
TEXTS = [
    *("", "Ada Lovelace", "moved to Berlin", "4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111"),
    *("4111_1111_1111_1111", "visa:4111111111111111", "DE89370400440532013000", "de89-3704-0044-0532-0130-00"),
    *("ada@example.com", "0170-1234567", "+491701234567", "\u00e9cole", "a\nb", "x" * 129),
]


@pytest.mark.parametrize("text", [*ADDRESSES, *TELEPHONES, *ACCOUNTS])
def test_addresses_and_numbers_of_people_look_personal(text: str) -> None:
    assert looks_personal(text)


@pytest.mark.parametrize("text", IDS)
def test_ordinary_ids_do_not(text: str) -> None:
    assert not looks_personal(text)


@given(st.uuids())
def test_no_uuid_does(value: Any) -> None:
    assert not looks_personal(str(value))
    assert not looks_personal(value.hex)


@given(st.integers(min_value=1, max_value=10**20))
def test_no_number_does(value: int) -> None:
    assert not looks_personal(str(value))


@given(st.integers(min_value=10**6, max_value=10**15 - 1), st.text(max_size=20), st.text(max_size=20))
def test_an_international_number_does_in_any_text(number: int, before: str, after: str) -> None:
    assert looks_personal(f"{before} +{number} {after}")


@pytest.mark.parametrize("text", WORDS)
def test_slugs_and_codes_are_words(text: str) -> None:
    assert is_word(text)
    assert is_label(text)
    assert is_dimension(text)


@pytest.mark.parametrize("text", ["5551234567", "555-1234567", "4917012345678"])
def test_a_long_number_is_a_word_and_no_label(text: str) -> None:
    assert is_word(text)
    assert not is_label(text)


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_are_no_words(text: str) -> None:
    assert not is_word(text)
    assert not is_dimension(text)


@pytest.mark.parametrize("value", [True, False, 0, 999_999, -999_999.5, 4.5, "123456"])
def test_short_numbers_are_dimensions(value: Any) -> None:
    assert is_dimension(value)


@pytest.mark.parametrize("value", [1_000_000, 5551234, -1e6, "5551234", "123-45-6789", None, [], {}])
def test_longer_numbers_and_documents_are_no_dimensions(value: Any) -> None:
    assert not is_dimension(value)
