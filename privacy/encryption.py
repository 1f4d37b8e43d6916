"""AES-256-GCM: encrypts personal data with one data key per person, and data keys with a key-encryption key.

An encrypted value is ``version (1) | nonce (12) | ciphertext | tag (16)``, sizes in bytes. Its associated data is
the person, table, column and row. So a value that is copied to another person, column or row can't be decrypted.

A wrapped data key is ``version (1) | length of key id (1) | key id | nonce (12) | ciphertext | tag (16)``. The key
id names its key-encryption key. So a rotation changes only wrapped keys, not data.

Nonces are random. Up to 2^32 values under one key, the probability of a repeated nonce is below 2^-32
(NIST SP 800-38D, 8.3). No person has that many values.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache, partial
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from models.personal import ROW_COLUMNS
from models.rules.domains import ascii_domain
from privacy.keyring import KEY_BYTES, KEY_ID, KeyRing, KeySet

_VERSION = b"\x01"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_ENCRYPTED_KEY_BYTES = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES
_CACHED_KEYS = 8192
"""Unwrapped data keys in a process's memory; each takes 2.7 KB."""


class DecryptionError(Exception):
    """Wrong key, wrong column, or a changed value. The text contains no part of the value."""


class KeyUnwrapError(DecryptionError):
    """The key ring lacks the key-encryption key of a data key, probably because of a wrong key file."""


class DataKey:
    """One person's data key, unwrapped."""

    __slots__ = ("_cipher", "_material", "subject")

    def __init__(self, subject: str, material: bytes) -> None:
        self.subject = subject
        self._material = material
        self._cipher = AESGCM(material)

    @classmethod
    def new(cls, subject: str) -> DataKey:
        return cls(subject, os.urandom(KEY_BYTES))

    def encrypt(self, column: str, value: bytes, *row: str | int) -> bytes:
        """``column`` is ``table.column``; ``row`` has the values of :data:`models.personal.ROW_COLUMNS`."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, value, _of_value(self.subject, column, row))

    def decrypt(self, column: str, encrypted: bytes, *row: str | int) -> bytes:
        """Raises :class:`DecryptionError`."""
        bound_to = _of_value(self.subject, column, row)
        if encrypted[:1] != _VERSION:
            raise DecryptionError(f"a value in {column} has an unknown version")
        try:
            return self._cipher.decrypt(encrypted[1:13], encrypted[13:], bound_to)
        except (InvalidTag, ValueError):
            raise DecryptionError(f"a value in {column} can't be decrypted") from None

    def encrypt_json(self, column: str, value: Any, *row: str | int) -> bytes | None:
        """None for None, which is stored as NULL."""
        return None if value is None else self.encrypt(column, orjson.dumps(value), *row)

    def decrypt_json(self, column: str, encrypted: bytes | None, *row: str | int) -> Any:
        """Raises :class:`DecryptionError`."""
        return None if encrypted is None else orjson.loads(self.decrypt(column, encrypted, *row))

    def wrap(self, keys: KeySet) -> bytes:
        """Encrypt this key with the current key-encryption key."""
        key_id = keys.current.encode()
        nonce = os.urandom(_NONCE_BYTES)
        bound_to = _of_wrapped_key(self.subject)
        encrypted = keys.ciphers[keys.current].encrypt(nonce, self._material, bound_to)
        return _VERSION + bytes([len(key_id)]) + key_id + nonce + encrypted

    @classmethod
    def unwrap(cls, keys: KeySet, subject: str, wrapped: bytes) -> DataKey:
        """Decrypt a wrapped key.

        Raises :class:`KeyUnwrapError` if the key-encryption key is missing, and :class:`DecryptionError` if the
        wrapped key is damaged or belongs to another subject.
        """
        key_id, encrypted = _parts_of(wrapped)
        bound_to = _of_wrapped_key(subject)
        cipher = keys.ciphers.get(key_id)
        if cipher is not None:
            material = _opened(cipher, encrypted, bound_to)
        elif any(_opened(each, encrypted, bound_to) for each in keys.ciphers.values()):
            material = None  # the id is damaged: the ring has the key
        else:
            raise KeyUnwrapError(f"the key ring has no key-encryption key '{key_id}'")
        if material is None:
            raise DecryptionError("a wrapped data key can't be decrypted")
        return cls(subject, material)


def _parts_of(wrapped: bytes) -> tuple[str, bytes]:
    """The key id of a wrapped data key, and ``nonce | ciphertext | tag``. Raises :class:`DecryptionError`."""
    begin = 2 + (wrapped[1] if len(wrapped) > 1 else 0)
    key_id = wrapped[2:begin].decode("ascii", errors="replace")
    if wrapped[:1] != _VERSION or len(wrapped) != begin + _ENCRYPTED_KEY_BYTES or not KEY_ID.fullmatch(key_id):
        raise DecryptionError("a wrapped data key is malformed")
    return key_id, wrapped[begin:]


def _of_wrapped_key(subject: str) -> bytes:
    return f"{subject}\x00data_key".encode()


def _opened(cipher: AESGCM, encrypted: bytes, bound_to: bytes) -> bytes | None:
    try:
        return cipher.decrypt(encrypted[:_NONCE_BYTES], encrypted[_NONCE_BYTES:], bound_to)
    except InvalidTag:
        return None


def _of_value(subject: str, column: str, row: Sequence[str | int]) -> bytes:
    """The associated data of a value. Raises ValueError if ``row`` doesn't identify a row of the table."""
    if len(row) != _row_parts(column):
        raise ValueError(f"a row of {column} has {_row_parts(column)} parts")
    # No part contains U+0000: Postgres stores none.
    return "\x00".join((subject, column, *map(str, row))).encode()


@cache
def _row_parts(column: str) -> int:
    return len(ROW_COLUMNS[column.partition(".")[0]])


class Cipher:
    """Data keys, the blind index and keyed digests, from one key ring."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._unwrap = lru_cache(_CACHED_KEYS)(partial(DataKey.unwrap, ring.kek))

    def new_key(self, subject: str) -> tuple[DataKey, bytes]:
        """A random data key, and its wrapped form."""
        key = DataKey.new(subject)
        return key, key.wrap(self._ring.kek)

    def unwrap(self, subject: str, wrapped: bytes) -> DataKey:
        """The data key, also from the cache. Raises :class:`KeyUnwrapError` and :class:`DecryptionError`.

        Callers read the wrapped key in the transaction that uses the result. So a destroyed key serves nobody,
        though it may stay in memory.
        """
        return self._unwrap(subject, wrapped)

    def rewrap(self, subject: str, wrapped: bytes) -> bytes | None:
        """Wrap a stored key with the current key-encryption key; None if that key already wraps it.

        Raises :class:`KeyUnwrapError` and :class:`DecryptionError`.
        """
        if _parts_of(wrapped)[0] == self._ring.kek.current:
            return None
        return self.unwrap(subject, wrapped).wrap(self._ring.kek)

    def email_index(self, email: str) -> bytes:
        """HMAC-SHA256 of the normalised address."""
        return self._mac(b"email", normalise_email(email).encode())

    def fingerprint(self, *parts: bytes) -> bytes:
        """A keyed digest of a request, which doesn't reveal its content."""
        return self._mac(b"request", b"\x00".join(parts))

    def instance_key(self, workflow_id: str, user_id: str, values: Mapping[str, Any]) -> bytes:
        """A keyed digest of an instance's key: the JSON values of parameters, by name.

        A whole number has the digest of its text: senders give the same id as either.
        """
        texts = {name: str(value) if type(value) is int else value for name, value in values.items()}
        return self._mac(b"instance_key", orjson.dumps([workflow_id, user_id, texts], option=orjson.OPT_SORT_KEYS))

    def derived_key(self, purpose: bytes) -> bytes:
        """A 32-byte key, derived from the blind-index key with HKDF-SHA256 (RFC 5869)."""
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(self._ring.blind_index)

    def _mac(self, label: bytes, message: bytes) -> bytes:
        return hmac.new(self._ring.blind_index, label + b"\x00" + message, hashlib.sha256).digest()


def normalise_email(email: str) -> str:
    """All spellings of an address, so that they have one blind index.

    The domain gets its ASCII form. The local part is trimmed, and gets NFC and lower case. Case folding would make
    one address of ``straße@`` and ``strasse@``.
    """
    local, _, domain = email.strip().rpartition("@")
    with suppress(ValueError):  # a search for an address with no possible domain finds nobody
        domain = ascii_domain(domain)
    return f"{unicodedata.normalize('NFC', local.lower())}@{domain}"
