"""The chain of checkpoints on the audit log: what an hour's checkpoint covers, and how it holds on to the one before.

A checkpoint's ``digest`` is SHA-256 over the canonical rows of its hour in the order of (occurred_at, audit_id), one
JSON array a line. Its ``head`` is HMAC-SHA256 over the canonical checkpoint: hour, number of rows, digest, what may
expire, time of checkpointing, and the head of the checkpoint before. So one head stands for every row of every hour up to it.

The key of that HMAC is derived from the key ring (HKDF-SHA256, RFC 5869) and never in the database: who has the
database alone can delete and change, but can't make the chain fit again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import orjson

from privacy.encryption import Cipher


class ChainBrokenError(Exception):
    """The audit log is not as it was checkpointed; the text names the hour in one sentence."""


GENESIS = bytes(32)
"""What stands for the head before the first checkpoint."""
_PURPOSE = b"perennial audit checkpoints 1"
_CHECK_BYTES = 8


@dataclass(frozen=True)
class UnsignedCheckpoint:
    """An hour as its checkpoint is to describe it; see :class:`models.tables.audit.AuditCheckpoint`."""

    hour: datetime
    rows: int
    digest: bytes
    expires_before: datetime
    created_at: datetime
    previous: bytes

    def canonical(self) -> bytes:
        """The bytes that the head covers; times in UTC with microseconds."""
        return orjson.dumps(
            [
                self.hour.isoformat(),
                self.rows,
                self.digest.hex(),
                self.expires_before.isoformat(),
                self.created_at.isoformat(),
                self.previous.hex(),
            ]
        )


@dataclass(frozen=True)
class Checkpoint(UnsignedCheckpoint):
    """The checkpoint on an hour."""

    head: bytes
    key_check: str


class CheckpointKey:
    """The key that checkpoints are made with."""

    def __init__(self, cipher: Cipher) -> None:
        self._key = cipher.derived_key(_PURPOSE)
        self.check_value = hashlib.sha256(b"check" + self._key).hexdigest()[: 2 * _CHECK_BYTES]
        """Tells which key a checkpoint was made with, and nothing of the key."""

    def checkpoint(self, hour: UnsignedCheckpoint) -> Checkpoint:
        """The checkpoint on an hour."""
        return Checkpoint(**vars(hour), head=self._head(hour), key_check=self.check_value)

    def fits(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is as it was made, with this key."""
        return hmac.compare_digest(self._head(checkpoint), checkpoint.head)

    def _head(self, hour: UnsignedCheckpoint) -> bytes:
        return hmac.digest(self._key, hour.canonical(), "sha256")


class HourDigest:
    """The digest of an hour's rows, taken up one after the other."""

    def __init__(self) -> None:
        self.rows = 0
        self._digest = hashlib.sha256()

    def add(self, columns: Iterable[object]) -> None:
        """Take up the next row, as its columns in their order."""
        self.rows += 1
        self._digest.update(orjson.dumps(tuple(columns)) + b"\n")

    def value(self) -> bytes:
        """The digest of what was taken up: 32 bytes."""
        return self._digest.digest()
