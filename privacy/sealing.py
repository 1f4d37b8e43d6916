"""AES-256-GCM sealing: of personal data with a data key per person, and of those keys themselves.

A sealed value is ``version (1) | nonce (12) | ciphertext and tag (16)``. It is bound by its associated data
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


class CannotOpen(Exception):
    """A sealed value does not open: wrong key, wrong place, or changed. Never holds any of the value."""


class CannotUnwrap(CannotOpen):
    """A data key was wrapped with a key-encryption key that this process lacks: it has the wrong key file."""


class DataKey:
    """One person's data key, unwrapped; seals and opens values of that person."""

    __slots__ = ("_cipher", "_material", "subject")

    def __init__(self, subject: str, material: bytes) -> None:
        self.subject = subject
        self._material = material
        self._cipher = AESGCM(material)

    @classmethod
    def new(cls, subject: str) -> DataKey:
        """A fresh random key for a person."""
        return cls(subject, os.urandom(KEY_BYTES))

    def seal(self, place: str, value: bytes) -> bytes:
        """Seal bytes for a place, which is ``table.column``."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, value, self._bound_to(place))

    def open(self, place: str, sealed: bytes) -> bytes:
        """Open what :meth:`seal` made for the same place; raises :class:`CannotOpen`."""
        if sealed[:1] != _VERSION:
            raise CannotOpen(f"unknown version of a sealed value in {place}")
        try:
            return self._cipher.decrypt(sealed[1:13], sealed[13:], self._bound_to(place))
        except (InvalidTag, ValueError):
            raise CannotOpen(f"a sealed value in {place} does not open") from None

    def seal_json(self, place: str, value: Any) -> bytes | None:
        """Seal a JSON value; None stays NULL."""
        return None if value is None else self.seal(place, orjson.dumps(value))

    def open_json(self, place: str, sealed: bytes | None) -> Any:
        """Open what :meth:`seal_json` made; NULL is None."""
        return None if sealed is None else orjson.loads(self.open(place, sealed))

    def _bound_to(self, place: str) -> bytes:
        return f"{self.subject}\x00{place}".encode()

    def wrap(self, keys: KeySet) -> bytes:
        """This key, sealed by the current key-encryption key."""
        key_id = keys.current.encode()
        nonce = os.urandom(_NONCE_BYTES)
        sealed = keys.ciphers[keys.current].encrypt(nonce, self._material, self._bound_to("data_key"))
        return _VERSION + bytes([len(key_id)]) + key_id + nonce + sealed

    @classmethod
    def unwrap(cls, keys: KeySet, subject: str, wrapped: bytes) -> DataKey:
        """Open a wrapped key; raises :class:`CannotUnwrap` where its key-encryption key is missing, and
        :class:`CannotOpen` where it is damaged, or another subject's."""
        begin = 2 + wrapped[1]
        key_id = wrapped[2:begin].decode()
        cipher = keys.ciphers.get(key_id)
        if wrapped[:1] != _VERSION or cipher is None:
            raise CannotUnwrap(f"the key-encryption key '{key_id}' is not at hand")
        nonce_end = begin + _NONCE_BYTES
        try:
            material = cipher.decrypt(
                wrapped[begin:nonce_end], wrapped[nonce_end:], f"{subject}\x00data_key".encode()
            )
        except (InvalidTag, ValueError):
            raise CannotOpen("a wrapped data key does not open") from None
        return cls(subject, material)


class Sealer:
    """What a process seals with: data keys of people, the blind index, fingerprints."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def new_key(self, subject: str) -> tuple[DataKey, bytes]:
        """A new data key for a subject, and its wrapped form to be stored."""
        key = DataKey.new(subject)
        return key, key.wrap(self._ring.kek)

    def unwrap(self, subject: str, wrapped: bytes) -> DataKey:
        """The subject's data key from its stored form; raises :class:`CannotUnwrap` and :class:`CannotOpen`."""
        return DataKey.unwrap(self._ring.kek, subject, wrapped)

    def rewrapped(self, subject: str, wrapped: bytes) -> bytes | None:
        """A stored key wrapped by the current key-encryption key; None where it is already. Raises
        :class:`CannotOpen`."""
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
