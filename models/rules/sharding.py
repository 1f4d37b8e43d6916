"""Assigns users to buckets and shards by CRC-32 of the user id.

The store locks consents by *bucket*: a batch of any size takes at most 256 locks, which fit into Postgres' lock
table. Consumers read the event log by *shard*. A change of :data:`SHARDS` moves users to other consumers and needs
a new generation of the log (docs/events.md).
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
