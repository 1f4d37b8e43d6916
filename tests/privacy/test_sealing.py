"""Sealing: what is sealed opens for its person and its place, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.keyring import KEY_BYTES, BadKeyFile, KeyRing, KeySet
from privacy.sealing import CannotOpen, DataKey, Sealer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_what_is_sealed_opens_again(value: Any) -> None:
    key = DataKey.new("u-1")
    assert key.open_json("users.name", key.seal_json("users.name", value)) == value


def test_the_same_value_is_sealed_differently_each_time() -> None:
    key = DataKey.new("u-1")
    assert len({key.seal("users.name", b"Ada") for _ in range(100)}) == 100


@given(st.binary(min_size=1, max_size=64), st.data())
def test_a_sealed_value_that_was_changed_does_not_open(value: bytes, data: st.DataObject) -> None:
    key = DataKey.new("u-1")
    sealed = bytearray(key.seal("users.name", value))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CannotOpen):
        key.open("users.name", bytes(sealed))


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + b"x" * 12, b"\x02" + b"x" * 40])
def test_what_was_never_sealed_does_not_open(sealed: bytes) -> None:
    with pytest.raises(CannotOpen):
        DataKey.new("u-1").open("users.name", sealed)


def test_a_value_is_bound_to_its_place_and_person() -> None:
    material = b"k" * KEY_BYTES
    sealed = DataKey("u-1", material).seal("users.name", b"Ada")
    for subject, place in (("u-2", "users.name"), ("u-1", "users.city"), ("u-1", "messages.name")):
        with pytest.raises(CannotOpen):
            DataKey(subject, material).open(place, sealed)


def test_a_wrapped_key_opens_after_rotation_and_only_for_its_person() -> None:
    old = KeySet("a", {"a": b"a" * KEY_BYTES})
    rotated = KeySet("b", {"a": b"a" * KEY_BYTES, "b": b"b" * KEY_BYTES})
    key = DataKey.new("u-1")
    sealed, wrapped = key.seal("users.name", b"Ada"), key.wrap(old)
    assert DataKey.unwrap(rotated, "u-1", wrapped).open("users.name", sealed) == b"Ada"
    with pytest.raises(CannotOpen):
        DataKey.unwrap(rotated, "u-2", wrapped)
    with pytest.raises(CannotOpen):
        DataKey.unwrap(KeySet("b", {"b": b"b" * KEY_BYTES}), "u-1", wrapped)
    with pytest.raises(CannotOpen):
        DataKey.unwrap(KeySet("a", {"a": b"x" * KEY_BYTES}), "u-1", wrapped)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ada@example.com", "ADA@Example.COM"),
        ("ada@example.com", " ada@example.com "),
        ("stra\u00dfe@example.com", "STRASSE@example.com"),
        ("e\u0301va@example.com", "\u00e9va@example.com"),
    ],
)
def test_two_spellings_of_an_address_have_one_index(sealer: Sealer, first: str, second: str) -> None:
    assert sealer.email_index(first) == sealer.email_index(second)
    assert sealer.email_index(first) != sealer.email_index("eve@example.com")


def test_an_index_tells_nothing_without_its_key(sealer: Sealer, key_ring: KeyRing) -> None:
    other = Sealer(KeyRing(key_ring.kek, key_ring.payload, b"o" * KEY_BYTES))
    assert sealer.email_index("ada@example.com") != other.email_index("ada@example.com")
    assert sealer.fingerprint(b"a", b"b") != sealer.fingerprint(b"ab")


def test_a_ring_shows_no_key(key_ring: KeyRing, sealer: Sealer) -> None:
    shown = repr(key_ring) + repr(key_ring.kek) + repr(sealer) + repr(sealer.new_key("u-1")[0])
    for key in (*key_ring.kek.keys.values(), *key_ring.payload.keys.values(), key_ring.blind_index):
        assert repr(key)[2:-1] not in shown


def test_a_set_needs_its_current_key_and_keys_of_the_right_length() -> None:
    with pytest.raises(BadKeyFile):
        KeySet("b", {"a": b"a" * KEY_BYTES})
    with pytest.raises(BadKeyFile):
        KeySet("a", {"a": b"short"})
