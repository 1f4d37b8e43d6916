"""Data keys of people: read in the transaction that uses them, so that a destroyed key is gone at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from models.errors import UserErased
from privacy.sealing import DataKey, Sealer
from store.connection import Connection

SERVICE_SUBJECT = "~service"
"""Seals what belongs to no single person; no user id starts with `~`."""


async def find(connection: Connection, sealer: Sealer, subjects: Iterable[str]) -> dict[str, DataKey | None]:
    """The data keys of some subjects; None for a destroyed one, absent for one that never had a key."""
    rows = await connection.fetch(
        "SELECT subject, wrapped FROM data_keys WHERE subject = ANY($1::text[])", list(subjects)
    )
    return {
        row["subject"]: None if row["wrapped"] is None else sealer.unwrap(row["subject"], row["wrapped"])
        for row in rows
    }


async def require(connection: Connection, sealer: Sealer, subject: str) -> DataKey:
    """The data key of one subject; :class:`UserErased` where it has been destroyed or never was."""
    key = (await find(connection, sealer, [subject])).get(subject)
    if key is None:
        raise UserErased
    return key


async def insert(connection: Connection, wrapped: Mapping[str, bytes]) -> set[str]:
    """Store new keys; says for which subjects. One that has a key, or had one, keeps what it has."""
    rows = await connection.fetch(
        """INSERT INTO data_keys (subject, wrapped)
           SELECT * FROM unnest($1::text[], $2::bytea[])
           ON CONFLICT (subject) DO NOTHING RETURNING subject""",
        list(wrapped),
        list(wrapped.values()),
    )
    return {row["subject"] for row in rows}


async def ensure(connection: Connection, sealer: Sealer, subject: str) -> DataKey:
    """The subject's key, made if there is none; for services' own subjects."""
    key = (await find(connection, sealer, [subject])).get(subject)
    if key is None:
        fresh, wrapped = sealer.new_key(subject)
        if await insert(connection, {subject: wrapped}):
            return fresh
        key = await require(connection, sealer, subject)
    return key
