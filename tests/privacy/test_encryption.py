"""Encryption: a value can be decrypted only for its person and its column."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.encryption import Cipher, DataKey, DecryptionError, KeyUnwrapError
from privacy.keyring import KEY_BYTES, KeyFileError, KeyRing, KeySet

KEK = KeySet("kek-1", {"kek-1": b"k" * KEY_BYTES, "older": b"o" * KEY_BYTES})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_an_encrypted_value_is_decrypted_again(value: Any) -> None:
    key = DataKey.new("u-1")
    assert key.decrypt_json("users.name", key.encrypt_json("users.name", value)) == value


def test_the_same_value_is_encrypted_differently_each_time() -> None:
    key = DataKey.new("u-1")
    assert len({key.encrypt("users.name", b"Ada") for _ in range(100)}) == 100


@given(st.binary(min_size=1, max_size=64), st.data())
def test_an_encrypted_value_that_was_changed_is_not_decrypted(value: bytes, data: st.DataObject) -> None:
    key = DataKey.new("u-1")
    encrypted = bytearray(key.encrypt("users.name", value))
    place = data.draw(st.integers(0, len(encrypted) - 1))
    encrypted[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecryptionError):
        key.decrypt("users.name", bytes(encrypted))


@pytest.mark.parametrize("encrypted", [b"", b"\x01", b"\x01" + b"x" * 12, b"\x02" + b"x" * 40])
def test_other_bytes_are_not_decrypted(encrypted: bytes) -> None:
    with pytest.raises(DecryptionError):
        DataKey.new("u-1").decrypt("users.name", encrypted)


def test_a_value_is_bound_to_its_person_column_and_row() -> None:
    material = b"k" * KEY_BYTES
    encrypted = DataKey("u-1", material).encrypt("steps.result", b"Ada", "i-1", "first")
    assert DataKey("u-1", material).decrypt("steps.result", encrypted, "i-1", "first") == b"Ada"
    others: list[tuple[str, str, tuple[str, str]]] = [
        ("u-2", "steps.result", ("i-1", "first")),
        ("u-1", "event_waits.property_filter", ("i-1", "first")),
        ("u-1", "steps.result", ("i-2", "first")),
        ("u-1", "steps.result", ("i-1", "second")),
        ("u-1", "steps.result", ("first", "i-1")),
        ("u-1", "steps.result", ("i-1f", "irst")),
    ]
    for subject, place, row in others:
        with pytest.raises(DecryptionError):
            DataKey(subject, material).decrypt(place, encrypted, *row)


def test_a_value_without_its_row_is_neither_encrypted_nor_decrypted() -> None:
    key = DataKey.new("u-1")
    for row in ((), ("e-1", "more")):
        with pytest.raises(ValueError, match=r"a row of events\.body has 1 parts"):
            key.encrypt("events.body", b"{}", *row)
        with pytest.raises(ValueError, match=r"a row of events\.body has 1 parts"):
            key.decrypt("events.body", key.encrypt("events.body", b"{}", "e-1"), *row)


def test_a_wrapped_key_opens_after_rotation_and_only_for_its_person() -> None:
    old = KeySet("a", {"a": b"a" * KEY_BYTES})
    rotated = KeySet("b", {"a": b"a" * KEY_BYTES, "b": b"b" * KEY_BYTES})
    key = DataKey.new("u-1")
    encrypted, wrapped = key.encrypt("users.name", b"Ada"), key.wrap(old)
    assert DataKey.unwrap(rotated, "u-1", wrapped).decrypt("users.name", encrypted) == b"Ada"
    with pytest.raises(DecryptionError):
        DataKey.unwrap(rotated, "u-2", wrapped)
    with pytest.raises(DecryptionError):
        DataKey.unwrap(KeySet("b", {"b": b"b" * KEY_BYTES}), "u-1", wrapped)
    with pytest.raises(DecryptionError):
        DataKey.unwrap(KeySet("a", {"a": b"x" * KEY_BYTES}), "u-1", wrapped)


def test_a_key_that_is_kept_opens_for_its_person_and_wrapped_form_alone(cipher: Cipher) -> None:
    _, wrapped = cipher.new_key("u-1")
    _, replaced = cipher.new_key("u-1")
    kept = cipher.unwrap("u-1", wrapped)
    assert cipher.unwrap("u-1", wrapped) is kept
    assert cipher.unwrap("u-1", replaced) is not kept
    with pytest.raises(DecryptionError):
        cipher.unwrap("u-2", wrapped)


@given(st.binary(max_size=300))
def test_a_wrapped_key_of_any_bytes_is_damaged_or_has_an_unknown_key(wrapped: bytes) -> None:
    ring = KeyRing(KEK, KEK, b"i" * KEY_BYTES)
    for use in (Cipher(ring).unwrap, Cipher(ring).rewrap):
        with pytest.raises(DecryptionError) as raised:
            use("u-1", wrapped)
        assert "\ufffd" not in str(raised.value)


@given(st.data())
def test_a_wrapped_key_with_another_byte_is_damaged(data: st.DataObject) -> None:
    """Not a missing key-encryption key, which would affect other people."""
    wrapped = bytearray(DataKey("u-1", b"d" * KEY_BYTES).wrap(KEK))
    place = data.draw(st.integers(0, len(wrapped) - 1))
    wrapped[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecryptionError) as raised:
        DataKey.unwrap(KEK, "u-1", bytes(wrapped))
    assert not isinstance(raised.value, KeyUnwrapError)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ada@example.com", "ADA@Example.COM"),
        ("ada@example.com", " ada@example.com "),
        ("ada@stra\u00dfe.example", "ada@xn--strae-oqa.example"),
        ("ada@B\u00dcCHER.example", "Ada@XN--BCHER-KVA.example"),
        ("ada@bu\u0308cher\u3002example", "ada@b\u00fccher.example"),
        ("\u0130dil@example.com", "i\u0307dil@example.com"),
        ("e\u0301va@example.com", "\u00e9va@example.com"),
    ],
)
def test_two_spellings_of_an_address_have_one_index(cipher: Cipher, first: str, second: str) -> None:
    assert cipher.email_index(first) == cipher.email_index(second)
    assert cipher.email_index(first) != cipher.email_index("eve@example.com")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("stra\u00dfe@example.com", "strasse@example.com"),
        ("ada@stra\u00dfe.example", "ada@strasse.example"),
        ("ada@\u03b2\u03cc\u03bb\u03bf\u03c2.example", "ada@\u03b2\u03cc\u03bb\u03bf\u03c3.example"),
    ],
)
def test_two_addresses_that_case_folding_would_join_have_two_indexes(
    cipher: Cipher, first: str, second: str
) -> None:
    assert cipher.email_index(first) != cipher.email_index(second)


def test_an_index_depends_on_its_key(cipher: Cipher, key_ring: KeyRing) -> None:
    other = Cipher(KeyRing(key_ring.kek, key_ring.payload, b"o" * KEY_BYTES))
    assert cipher.email_index("ada@example.com") != other.email_index("ada@example.com")
    assert cipher.fingerprint(b"a", b"b") != cipher.fingerprint(b"ab")


def test_a_ring_shows_no_key(key_ring: KeyRing, cipher: Cipher) -> None:
    shown = repr(key_ring) + repr(key_ring.kek) + repr(cipher) + repr(cipher.new_key("u-1")[0])
    for key in (*key_ring.kek.keys.values(), *key_ring.payload.keys.values(), key_ring.blind_index):
        assert repr(key)[2:-1] not in shown


def test_a_set_needs_its_current_key_and_keys_of_the_right_length() -> None:
    with pytest.raises(KeyFileError):
        KeySet("b", {"a": b"a" * KEY_BYTES})
    with pytest.raises(KeyFileError):
        KeySet("a", {"a": b"short"})
