"""Values that the key ring derives: stored ones stay valid, so each has a known answer computed by hand."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest

from privacy.encryption import Cipher, DataKey, DecryptionError, KeyUnwrapError
from privacy.keyring import KEY_BYTES, KeyRing, KeySet

INDEX_KEY = bytes(range(KEY_BYTES))


@pytest.fixture
def ring() -> KeyRing:
    kek = KeySet("kek-2", {"kek-1": b"\x01" * KEY_BYTES, "kek-2": b"\x02" * KEY_BYTES})
    return KeyRing(kek, KeySet("payload-1", {"payload-1": b"\x03" * KEY_BYTES}), INDEX_KEY)


def mac(message: bytes) -> bytes:
    return hmac.new(INDEX_KEY, message, hashlib.sha256).digest()


def test_the_blind_index_is_an_hmac_of_the_address(ring: KeyRing) -> None:
    assert Cipher(ring).email_index(" Ada@Example.com ") == mac(b"email\x00ada@example.com")


def test_a_fingerprint_is_an_hmac_of_its_parts(ring: KeyRing) -> None:
    assert Cipher(ring).fingerprint(b"POST", b"/users") == mac(b"request\x00POST\x00/users")


def test_a_derived_key_is_hkdf_of_its_purpose(ring: KeyRing) -> None:
    """RFC 5869 by hand, with the empty salt and one block."""
    pseudo_random = hmac.new(b"\x00" * 32, INDEX_KEY, hashlib.sha256).digest()
    expected = hmac.new(pseudo_random, b"audit\x01", hashlib.sha256).digest()
    assert Cipher(ring).derived_key(b"audit") == expected
    assert Cipher(ring).derived_key(b"consent") != expected


def test_a_new_key_is_its_subjects_and_unwraps(ring: KeyRing) -> None:
    cipher = Cipher(ring)
    key, wrapped = cipher.new_key("u-1")
    assert key.subject == "u-1"
    again = cipher.unwrap("u-1", wrapped)
    assert again.subject == "u-1"
    assert again.decrypt("users.name", key.encrypt("users.name", b"Ada")) == b"Ada"
    with pytest.raises(DecryptionError) as raised:
        cipher.unwrap("u-2", wrapped)
    assert not isinstance(raised.value, KeyUnwrapError)
    assert str(raised.value) == "a wrapped data key can't be decrypted"


def test_a_rewrap_changes_the_wrapping_alone_and_once(ring: KeyRing) -> None:
    old = Cipher(replace(ring, kek=KeySet("kek-1", ring.kek.keys)))
    key, wrapped = old.new_key("u-1")
    cipher = Cipher(ring)
    rewrapped = cipher.rewrap("u-1", wrapped)
    assert rewrapped is not None
    assert rewrapped[2 : 2 + rewrapped[1]] == b"kek-2"
    again = cipher.unwrap("u-1", rewrapped)
    assert again.decrypt("users.name", key.encrypt("users.name", b"Ada")) == b"Ada"
    assert cipher.rewrap("u-1", rewrapped) is None
    with pytest.raises(DecryptionError):
        cipher.rewrap("u-2", wrapped)


def test_a_missing_key_is_named_and_null_stays_null(ring: KeyRing) -> None:
    _, wrapped = Cipher(ring).new_key("u-1")
    poorer = Cipher(replace(ring, kek=KeySet("kek-1", {"kek-1": b"\x01" * KEY_BYTES})))
    with pytest.raises(KeyUnwrapError, match="no key-encryption key 'kek-2'"):
        poorer.unwrap("u-1", wrapped)
    key = DataKey.new("u-1")
    assert key.encrypt_json("users.name", None) is None
    with pytest.raises(DecryptionError, match=r"a value in users\.name has an unknown version"):
        key.decrypt("users.name", b"\x02" + bytes(40))
    with pytest.raises(DecryptionError, match=r"a value in users\.name can't be decrypted"):
        key.decrypt("users.name", b"\x01" + bytes(40))
