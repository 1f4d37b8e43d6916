"""The chain of checkpoints of the audit log.

The ``digest`` of a checkpoint is SHA-256 over the rows of its hour, in the order of (occurred_at, audit_id). Each
row is a line with a JSON array. The ``head`` is HMAC-SHA256 over hour, number of rows, digest, expiry limit,
creation time and the previous head. So one head covers every row of its hour and of all earlier hours.

The same key makes a *permit* for each hour, and the checkpoint has the SHA-256 of it. Postgres deletes the rows of
an expired hour only for a caller that gives the permit.

HKDF-SHA256 (RFC 5869) derives the HMAC's key from the key ring. The key is never in the database. An attacker with
only the database can change rows, but can't compute matching heads.
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
    """The audit log doesn't match its checkpoints. The text is one sentence and names the hour."""


GENESIS = bytes(32)  # the previous head of the first checkpoint
_PURPOSE = b"perennial audit checkpoints 1"
_CHECK_BYTES = 8


@dataclass(frozen=True)
class UnsignedCheckpoint:
    """The columns that a head covers; see :class:`models.tables.audit.AuditCheckpoint`."""

    hour: datetime
    rows: int
    digest: bytes
    expires_before: datetime
    created_at: datetime
    previous: bytes

    def canonical(self) -> bytes:
        """The bytes that the head covers. Times must be in UTC."""
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
    head: bytes
    key_check: str
    permit_digest: bytes | None


class CheckpointKey:
    """Signs and verifies checkpoints."""

    def __init__(self, cipher: Cipher) -> None:
        self._key = cipher.derived_key(_PURPOSE)
        self.check_value = hashlib.sha256(b"check" + self._key).hexdigest()[: 2 * _CHECK_BYTES]
        """16 hexadecimal digits that identify the key without revealing it."""

    def checkpoint(self, hour: UnsignedCheckpoint) -> Checkpoint:
        return Checkpoint(
            **vars(hour),
            head=self._head(hour),
            key_check=self.check_value,
            permit_digest=hashlib.sha256(self.permit(hour.hour)).digest(),
        )

    def fits(self, checkpoint: Checkpoint) -> bool:
        """Whether this key made the checkpoint and it is unchanged."""
        digest = checkpoint.permit_digest
        permitted = digest is None or digest == hashlib.sha256(self.permit(checkpoint.hour)).digest()
        return permitted and hmac.compare_digest(self._head(checkpoint), checkpoint.head)

    def permit(self, hour: datetime) -> bytes:
        """The permit to delete the rows of an hour, which is in UTC. The database has only its digest."""
        return hmac.digest(self._key, b"expire " + hour.isoformat().encode(), "sha256")

    def seal(self, days: int) -> bytes:
        """The seal of the audit log's period. Only a sealed period shortens the default."""
        return hmac.digest(self._key, b"period %d" % days, "sha256")

    def _head(self, hour: UnsignedCheckpoint) -> bytes:
        return hmac.digest(self._key, hour.canonical(), "sha256")


class HourDigest:
    """The digest of an hour's rows. Add them in order."""

    def __init__(self) -> None:
        self.rows = 0
        self._digest = hashlib.sha256()

    def add(self, columns: Iterable[object]) -> None:
        self.rows += 1
        self._digest.update(orjson.dumps(tuple(columns)) + b"\n")

    def value(self) -> bytes:
        """32 bytes."""
        return self._digest.digest()
