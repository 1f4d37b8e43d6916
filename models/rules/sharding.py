"""Assigns users to buckets and shards by CRC-32 of the user id.

Consent is locked by *bucket*: with 256 of them, a batch of any size fits into Postgres' lock table. The event log
is consumed by *shard*. A change of :data:`SHARDS` moves users to other consumers and needs a new generation of the
log (docs/events.md).
"""

from __future__ import annotations

from zlib import crc32

BUCKETS = 256
SHARDS = 4


def bucket_of(user_id: str) -> int:
    """0 to 255."""
    return crc32(user_id.encode()) % BUCKETS


def shard_of(user_id: str) -> int:
    return bucket_of(user_id) % SHARDS
