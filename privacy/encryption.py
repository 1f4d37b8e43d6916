"""AES-256-GCM encrypting: of personal data with a data key per person, and of those keys themselves.

A encrypted value is ``version (1) | nonce (12) | ciphertext and tag (16)``. It is bound by its associated data
to the person, table and column it was written for: a value copied to another row or column does not open.
A wrapped data key is ``version (1) | length of key id (1) | key id | nonce (12) | ciphertext and tag``: the
id of the key-encryption key travels with it, so that a rotation touches wrapped keys alone, and no data.

Nonces are random; with at most 2^32 values under one key the chance of a repeat stays below 2^-32
(NIST SP 800-38D, 8.3), and no person has that many.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import unicodedata
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.keyring import KEY_BYTES, KeyRing, KeySet

_VERSION = b"\x01"
_NONCE_BYTES = 12


class DecryptionError(Exception):
    """A encrypted value does not open: wrong key, wrong place, or changed. Never holds any of the value."""


class KeyUnwrapError(DecryptionError):
    """A data key was wrapped with a key-encryption key that this process lacks: it has the wrong key file."""


class DataKey:
    """One person's data key, unwrapped; encrypts and opens values of that person."""

    __slots__ = ("_cipher", "_material", "subject")

    def __init__(self, subject: str, material: bytes) -> None:
        self.subject = subject
        self._material = material
        self._cipher = AESGCM(material)

    @classmethod
    def new(cls, subject: str) -> DataKey:
        """A fresh random key for a person."""
        return cls(subject, os.urandom(KEY_BYTES))

    def encrypt(self, place: str, value: bytes) -> bytes:
        """Encrypt bytes for a place, which is ``table.column``."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, value, self._bound_to(place))

    def decrypt(self, place: str, encrypted: bytes) -> bytes:
        """Open what :meth:`encrypt` made for the same place; raises :class:`DecryptionError`."""
        if encrypted[:1] != _VERSION:
            raise DecryptionError(f"unknown version of a encrypted value in {place}")
        try:
            return self._cipher.decrypt(encrypted[1:13], encrypted[13:], self._bound_to(place))
        except (InvalidTag, ValueError):
            raise DecryptionError(f"a encrypted value in {place} does not open") from None

    def encrypt_json(self, place: str, value: Any) -> bytes | None:
        """Encrypt a JSON value; None stays NULL."""
        return None if value is None else self.encrypt(place, orjson.dumps(value))

    def decrypt_json(self, place: str, encrypted: bytes | None) -> Any:
        """Open what :meth:`encrypt_json` made; NULL is None."""
        return None if encrypted is None else orjson.loads(self.decrypt(place, encrypted))

    def _bound_to(self, place: str) -> bytes:
        return f"{self.subject}\x00{place}".encode()

    def wrap(self, keys: KeySet) -> bytes:
        """This key, encrypted by the current key-encryption key."""
        key_id = keys.current.encode()
        nonce = os.urandom(_NONCE_BYTES)
        encrypted = keys.ciphers[keys.current].encrypt(nonce, self._material, self._bound_to("data_key"))
        return _VERSION + bytes([len(key_id)]) + key_id + nonce + encrypted

    @classmethod
    def unwrap(cls, keys: KeySet, subject: str, wrapped: bytes) -> DataKey:
        """Open a wrapped key; raises :class:`KeyUnwrapError` where its key-encryption key is missing, and
        :class:`DecryptionError` where it is damaged, or another subject's."""
        begin = 2 + wrapped[1]
        key_id = wrapped[2:begin].decode()
        cipher = keys.ciphers.get(key_id)
        if wrapped[:1] != _VERSION or cipher is None:
            raise KeyUnwrapError(f"the key-encryption key '{key_id}' is not at hand")
        nonce_end = begin + _NONCE_BYTES
        try:
            material = cipher.decrypt(
                wrapped[begin:nonce_end], wrapped[nonce_end:], f"{subject}\x00data_key".encode()
            )
        except (InvalidTag, ValueError):
            raise DecryptionError("a wrapped data key does not open") from None
        return cls(subject, material)


class Cipher:
    """What a process encrypts with: data keys of people, the blind index, fingerprints."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def new_key(self, subject: str) -> tuple[DataKey, bytes]:
        """A new data key for a subject, and its wrapped form to be stored."""
        key = DataKey.new(subject)
        return key, key.wrap(self._ring.kek)

    def unwrap(self, subject: str, wrapped: bytes) -> DataKey:
        """The subject's data key from its stored form; raises :class:`KeyUnwrapError` and :class:`DecryptionError`."""
        return DataKey.unwrap(self._ring.kek, subject, wrapped)

    def rewrapped(self, subject: str, wrapped: bytes) -> bytes | None:
        """A stored key wrapped by the current key-encryption key; None where it is already. Raises
        :class:`DecryptionError`."""
        if wrapped[2 : 2 + wrapped[1]] == self._ring.kek.current.encode():
            return None
        return self.unwrap(subject, wrapped).wrap(self._ring.kek)

    def email_index(self, email: str) -> bytes:
        """The blind index of an address: HMAC-SHA256 of its NFC, case-folded form."""
        return self._mac(b"email", normalise_email(email).encode())

    def fingerprint(self, *parts: bytes) -> bytes:
        """A keyed digest of a request, so that what is stored tells nothing of its content."""
        return self._mac(b"request", b"\x00".join(parts))

    def derived_key(self, purpose: bytes) -> bytes:
        """A key of 32 bytes for another purpose, from the blind-index key: HKDF-SHA256 (RFC 5869)."""
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(self._ring.blind_index)

    def _mac(self, label: bytes, message: bytes) -> bytes:
        return hmac.new(self._ring.blind_index, label + b"\x00" + message, hashlib.sha256).digest()


def normalise_email(email: str) -> str:
    """The form under which two spellings of an address are the same: NFC, without case, trimmed."""
    return unicodedata.normalize("NFC", email.strip()).casefold()
