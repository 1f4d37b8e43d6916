"""Which bucket and shard a user belongs to: the same in every process, for ever.

A *bucket* is what consent is locked by (256 of them, so that a batch never exhausts the lock table); a *shard*
is what the log is consumed by. Both follow from CRC-32 of the user id. Changing :data:`SHARDS` re-deals users
to consumers and needs the log generation to be raised (see docs/events.md).
"""

from __future__ import annotations

from zlib import crc32

BUCKETS = 256
SHARDS = 4


def bucket_of(user_id: str) -> int:
    """The consent bucket of a user, 0 to 255."""
    return crc32(user_id.encode()) % BUCKETS


def shard_of(user_id: str) -> int:
    """The shard of the log that a user's events are in."""
    return bucket_of(user_id) % SHARDS
