"""No personal data is on disk in plaintext, neither in tables nor in the write-ahead log."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from models.personal import personal_columns
from models.rules.profile import create
from models.schemas.users import UserCreate
from models.tables.people import User
from models.tables.registry import TABLES
from privacy.encryption import Cipher, DecryptionError
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from store.connection import Connection
from store.users import data_keys, users
from tests.support.builders import user

PERSON = user(
    "u-canary",
    email="Canary.Eins@Example.com",
    name="Canaria Zweibruecken",
    demographics={
        "city": "Canaryville Drei",
        "date_of_birth": "1971-03-07",
        "gender": "canary-vier",
        "device_type": "canary-fuenf",
    },
    consents={"data_collection": True},
)
CANARIES = (
    "Canary.Eins",
    "canary.eins",
    "Canaria",
    "Zweibruecken",
    "Canaryville",
    "1971-03-07",
    "canary-vier",
    "canary-fuenf",
)


async def store_person(database: Database, cipher: Cipher) -> None:
    profile = create(UserCreate.model_validate(PERSON).model_dump(exclude_unset=True))
    async with database.transaction() as connection:
        await users.create(connection, cipher, profile, actor="test")


async def checkpoint(postgres: EmbeddedPostgres) -> None:
    superuser = await asyncpg.connect(postgres.superuser_url)
    try:
        await superuser.execute("CHECKPOINT")
    finally:
        await superuser.close()


def files_with(directory: Path, text: str) -> list[Path]:
    """The files that contain a text in UTF-8 or UTF-16."""
    needles = (text.encode(), text.encode("utf-16-le"))
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


async def test_no_personal_data_is_readable_on_disk(
    database: Database, cipher: Cipher, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await store_person(database, cipher)
    await checkpoint(postgres)
    data = Path(await superuser_setting(postgres, "data_directory"))
    assert files_with(data, "u-canary"), "the search finds what is there"
    for canary in CANARIES:
        assert not files_with(data, canary), canary


async def superuser_setting(postgres: EmbeddedPostgres, name: str) -> str:
    superuser = await asyncpg.connect(postgres.superuser_url)
    try:
        return str(await superuser.fetchval("SELECT current_setting($1)", name))
    finally:
        await superuser.close()


async def test_every_personal_column_holds_bytes(owner: Connection) -> None:
    for table in TABLES:
        for column in personal_columns(table):
            kind = await owner.fetchval(
                "SELECT data_type FROM information_schema.columns WHERE table_name = $1 AND column_name = $2",
                table.__table__.name,  # type: ignore[attr-defined]
                column,
            )
            assert kind == "bytea", (table, column)


async def test_a_value_decrypts_only_for_its_user_and_column(
    database: Database, cipher: Cipher, owner: Connection
) -> None:
    await store_person(database, cipher)
    row = await owner.fetchrow("SELECT * FROM users JOIN data_keys ON subject = user_id")
    assert row is not None
    key = cipher.unwrap(row["user_id"], row["wrapped"])
    assert key.decrypt_json("users.name", row["name"]) == "Canaria Zweibruecken"
    for column in set(personal_columns(User)) - {"name"}:
        with pytest.raises(DecryptionError):
            key.decrypt_json(f"users.{column}", row["name"])
    with pytest.raises(DecryptionError):
        cipher.unwrap("u-other", row["wrapped"])


async def test_equal_values_of_two_users_share_no_bytes(
    database: Database, cipher: Cipher, owner: Connection
) -> None:
    for user_id in ("a", "b"):
        profile = create(UserCreate.model_validate(user(user_id)).model_dump(exclude_unset=True))
        async with database.transaction() as connection:
            await users.create(connection, cipher, profile, actor="test")
    names = [row["name"] for row in await owner.fetch("SELECT name FROM users")]
    assert len(set(names)) == 2


async def test_a_destroyed_key_makes_the_profile_unreadable(
    database: Database, cipher: Cipher, owner: Connection
) -> None:
    await store_person(database, cipher)
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now()")
    async with database.connection() as connection:
        assert await data_keys.find(connection, cipher, ["u-canary"]) == {"u-canary": None}
        locked = await users.lock(connection, cipher, ["u-canary"])
    assert locked.users == {}
    assert locked.erased == {"u-canary"}
