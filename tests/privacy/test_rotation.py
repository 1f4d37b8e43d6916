"""A rotation of the key-encryption key: data keys are wrapped again, and still decrypt."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

from privacy.encryption import Cipher, DecryptionError
from privacy.keyring import KeyFile
from runtime.database import Database
from store.connection import Connection
from store.users import data_keys
from tests.support.locks import until_blocked
from tests.support.processes import ROOT

PEOPLE = [f"u-{number}" for number in range(3)]


@pytest.fixture
async def rotated(database: Database, key_file: Path, tmp_path: Path) -> Path:
    """A key file with a new current key-encryption key; data keys are wrapped with the old one."""
    ring = KeyFile(key_file).load()
    async with database.transaction() as connection:
        fresh = {user_id: Cipher(ring).new_key(user_id)[1] for user_id in PEOPLE}
        await data_keys.insert_new(connection, fresh)
    document = json.loads(key_file.read_text())
    document["kek"]["keys"]["new"] = base64.b64encode(os.urandom(32)).decode()
    document["kek"]["current"] = "new"
    file = tmp_path / "keys.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(document))
    return file


async def test_after_a_rewrap_the_old_key_can_be_removed(
    rotated: Path, database: Database, key_file: Path, database_url: str
) -> None:
    old = KeyFile(key_file).load()
    async with database.transaction() as connection:
        encrypted = (await data_keys.require(connection, Cipher(old), "u-1")).encrypt("users.name", b"kept")
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = 'u-2'")
    said = await rewrap(rotated, database_url)
    assert "Wrapped 2 keys anew" in said
    ring = KeyFile(rotated).load()
    only = dataclasses.replace(ring, kek=dataclasses.replace(ring.kek, keys={"new": ring.kek.keys["new"]}))
    async with database.transaction() as connection:
        assert (await data_keys.require(connection, Cipher(only), "u-1")).decrypt(
            "users.name", encrypted
        ) == b"kept"
        with pytest.raises(DecryptionError):
            await data_keys.require(connection, Cipher(old), "u-1")
        assert await connection.fetchval("SELECT wrapped IS NULL FROM data_keys WHERE subject = 'u-2'")
        details = await connection.fetchval("SELECT details FROM audit_log WHERE action = 'keys.rewrap'")
    assert details == {"keys": 2}
    assert "Wrapped 0 keys anew" in await rewrap(rotated, database_url)


async def test_a_rewrap_leaves_a_damaged_key_and_wraps_the_others(
    rotated: Path, database: Database, owner: Connection
) -> None:
    damaged = b"\x01\x04\xff\xff"
    await owner.execute("UPDATE data_keys SET wrapped = $1 WHERE subject = 'u-0'", damaged)
    async with database.transaction() as connection:
        page = await data_keys.rewrap(connection, Cipher(KeyFile(rotated).load()), "", actor="test")
    assert (page.count, page.damaged) == (2, 1)
    assert await owner.fetchval("SELECT wrapped FROM data_keys WHERE subject = 'u-0'") == damaged


async def test_a_key_that_is_destroyed_during_a_rewrap_stays_destroyed(
    rotated: Path, database: Database, owner: Connection
) -> None:
    cipher = Cipher(KeyFile(rotated).load())

    async def wrapped_anew() -> int:
        async with database.transaction() as connection:
            return (await data_keys.rewrap(connection, cipher, "", actor="test")).count

    async with owner.transaction():
        await owner.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = 'u-1'")
        work = asyncio.create_task(wrapped_anew())
        await until_blocked(database, 1)
    assert await work == 2
    assert await owner.fetchval("SELECT wrapped IS NULL FROM data_keys WHERE subject = 'u-1'")


async def rewrap(file: Path, database_url: str) -> str:
    """The output of `perennial keyfile rewrap`."""
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "keyfile", "rewrap"),
        cwd=ROOT,
        env={
            **os.environ,
            "PERENNIAL_DATABASE_URL": database_url,
            "PERENNIAL_KEY_FILE": str(file),
        },
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await command.communicate()
    assert command.returncode == 0
    return output.decode()
