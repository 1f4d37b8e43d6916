"""The few keys a process holds: handed over once at start by a provider, never one call per person.

The embedded stack and small installations keep them in a file (:class:`KeyFile`); a KMS implements the same
one-method protocol. Three kinds, each with a current key and older ones that still open what they encrypted:

- ``kek``: key-encryption keys, which wrap the data key of each person;
- ``payload``: keys for Temporal's payloads;
- ``blind_index``: one key for lookups by e-mail and for request fingerprints. It can't be rotated without
  rebuilding the index, which is why it is a key of its own.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32


class KeyFileError(Exception):
    """The key file can't be used; the text says why in one sentence."""


@dataclass(frozen=True, repr=False)
class KeySet:
    """Keys of one kind by id; ``current`` is the one that encrypts."""

    current: str
    keys: Mapping[str, bytes]

    def __post_init__(self) -> None:
        if self.current not in self.keys:
            raise KeyFileError(f"The current key '{self.current}' is not among the keys.")
        if any(len(key) != KEY_BYTES for key in self.keys.values()):
            raise KeyFileError(f"Every key must have {KEY_BYTES} bytes.")

    @cached_property
    def ciphers(self) -> Mapping[str, AESGCM]:
        """AES-256-GCM with each key, by id; made once, since setting a key up costs as much as using it."""
        return {name: AESGCM(key) for name, key in self.keys.items()}


@dataclass(frozen=True, repr=False)
class KeyRing:
    """All keys of a process. It has no useful ``repr``, so that no log can hold a key."""

    kek: KeySet
    payload: KeySet
    blind_index: bytes


class KeyProvider(Protocol):
    """Where a process gets its keys from."""

    def load(self) -> KeyRing:
        """Hand the keys over, or raise :class:`KeyFileError`."""
        ...


@dataclass(frozen=True)
class KeyFile:
    """Keys in a JSON file, readable by its owner alone."""

    path: Path

    def load(self) -> KeyRing:
        """Read the file; raises :class:`KeyFileError` where it is missing, open to others or malformed."""
        try:
            mode = self.path.stat().st_mode
            document = json.loads(self.path.read_text())
        except FileNotFoundError:
            raise KeyFileError(
                f"The key file {self.path} does not exist; make one with `perennial keyfile create`."
            ) from None
        except (OSError, ValueError):
            raise KeyFileError(f"The key file {self.path} can't be read.") from None
        if os.name == "posix" and mode & 0o077:
            raise KeyFileError(f"The key file {self.path} is open to others; run `chmod 600` on it.")
        try:
            return KeyRing(
                kek=_key_set(document["kek"]),
                payload=_key_set(document["payload"]),
                blind_index=base64.b64decode(document["blind_index"], validate=True),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise KeyFileError(f"The key file {self.path} is malformed.") from None

    def create(self) -> bool:
        """Write new random keys; an existing file is left alone. Says whether it wrote.

        Written beside the path and linked into place, so that a crash never leaves half a file and two
        creators never overwrite each other.
        """
        if self.path.exists():
            return False
        document = {
            "kek": _new_key_set("kek"),
            "payload": _new_key_set("payload"),
            "blind_index": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True


def _key_set(document: dict[str, object]) -> KeySet:
    keys = document["keys"]
    if not isinstance(keys, dict):
        raise TypeError("keys")
    return KeySet(
        current=str(document["current"]),
        keys={str(name): base64.b64decode(value, validate=True) for name, value in keys.items()},
    )


def _new_key_set(kind: str) -> dict[str, object]:
    name = f"{kind}-{secrets.token_hex(4)}"
    return {"current": name, "keys": {name: base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}}
