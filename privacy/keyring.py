"""The key ring of a process, loaded once at start from a :class:`KeyProvider`: a file, or for example a KMS.

- ``kek``: key-encryption keys, which wrap the data key of each person.
- ``payload``: keys for Temporal's payloads.
- ``blind_index``: one key for look-ups by e-mail, fingerprints of requests, and derived keys. It is separate
  because its rotation would need a new index.

``kek`` and ``payload`` each have a current key, which encrypts, and older keys, which only decrypt.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
KEY_ID = re.compile(r"[!-~]{1,255}")
"""The id of a key; a wrapped data key has one byte for its length."""


class KeyFileError(Exception):
    """The key file can't be used. The text is one sentence with the reason."""


@dataclass(frozen=True, repr=False)  # no log can hold a key
class KeySet:
    """Keys of one kind, by id. ``current`` is the id of the encrypting key."""

    current: str
    keys: Mapping[str, bytes]

    def __post_init__(self) -> None:
        if self.current not in self.keys:
            raise KeyFileError(f"The current key '{self.current}' is not among the keys.")
        if not all(KEY_ID.fullmatch(name) for name in self.keys):
            raise KeyFileError("The id of every key must have 1 to 255 printable ASCII characters without spaces.")
        if any(len(key) != KEY_BYTES for key in self.keys.values()):
            raise KeyFileError(f"Every key must have {KEY_BYTES} bytes.")

    @cached_property
    def ciphers(self) -> Mapping[str, AESGCM]:
        """AES-256-GCM by key id. Cached, since the setup of a key costs as much as its use."""
        return {name: AESGCM(key) for name, key in self.keys.items()}


@dataclass(frozen=True, repr=False)  # no log can hold a key
class KeyRing:
    """All keys of a process."""

    kek: KeySet
    payload: KeySet
    blind_index: bytes

    def __post_init__(self) -> None:
        if len(self.blind_index) != KEY_BYTES:
            raise KeyFileError(f"The blind-index key must have {KEY_BYTES} bytes.")


class KeyProvider(Protocol):
    def load(self) -> KeyRing:
        """Raises :class:`KeyFileError`."""
        ...


@dataclass(frozen=True)
class KeyFile:
    """Keys in a JSON file that only its owner can read."""

    path: Path

    def load(self) -> KeyRing:
        """Raises :class:`KeyFileError` if the file is missing, malformed or readable by others."""
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
            raise KeyFileError(f"Other users can read the key file {self.path}; run `chmod 600` on it.")
        try:
            return KeyRing(
                kek=_key_set(document["kek"]),
                payload=_key_set(document["payload"]),
                blind_index=base64.b64decode(document["blind_index"], validate=True),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise KeyFileError(f"The key file {self.path} is malformed.") from None

    def create(self) -> bool:
        """Write new random keys, unless the file exists; returns whether it wrote them."""
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
            # link() is atomic and fails if the file exists. So a crash leaves no partial file, and only one
            # process creates it.
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
