"""`perennial rebuild` as a process: its exit codes, and a kill in the middle."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from models.rules.sharding import bucket_of
from privacy.encryption import Cipher
from runtime.database import Database
from tests.support.locks import until_blocked
from tests.support.log import NOON, Happening, Log
from tests.support.processes import ROOT

pytestmark = pytest.mark.slow
PEOPLE = 30


class Command:
    def __init__(self, database_url: str, key_file: Path) -> None:
        self._environment = {
            **os.environ,
            "PERENNIAL_DATABASE_URL": database_url,
            "PERENNIAL_KEY_FILE": str(key_file),
        }

    async def start(self, *options: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "rebuild", *options),
            cwd=ROOT,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, *options: str) -> tuple[int | None, str]:
        """Exit code and output, each run of spaces as one."""
        process = await self.start(*options)
        output, _ = await process.communicate()
        return process.returncode, " ".join(output.decode().split())


@pytest.fixture
def command(database_url: str, key_file: Path) -> Command:
    return Command(database_url, key_file)


@pytest.fixture
async def people(database: Database, cipher: Cipher) -> list[str]:
    """In the order of their buckets; the session count of each is damaged."""
    log = Log(database, cipher)
    people = [await log.person() for _ in range(PEOPLE)]
    await log.write(*(Happening(user) for user in people))
    await log.project()
    async with database.connection() as connection:
        await connection.execute("UPDATE user_activity SET session_count = 7")
    return sorted(people, key=bucket_of)


async def counts(database: Database) -> dict[str, int]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT user_id, session_count FROM user_activity")
    return dict(map(tuple, rows))


async def test_a_dry_run_exits_with_1_until_a_rebuild_has_replaced_what_differs(
    command: Command, people: list[str], database: Database
) -> None:
    since = f"{NOON:%Y-%m-%d}"
    code, output = await command.run("--from", since, "--dry-run")
    assert code == 1, output
    assert f"From {NOON:%Y-%m}-01 00:00 UTC" in output
    assert f"users {PEOPLE} of them with their whole history in the log {PEOPLE} differing {PEOPLE}" in output
    assert set((await counts(database)).values()) == {7}
    code, output = await command.run("--from", since)
    assert code == 0, output
    assert f"rows changed {PEOPLE}" in output
    assert await counts(database) == dict.fromkeys(people, 1)
    assert (await command.run("--from", since, "--dry-run"))[0] == 0


async def test_a_killed_rebuild_has_replaced_whole_users_and_the_next_one_does_the_others(
    command: Command, people: list[str], database: Database
) -> None:
    middle = PEOPLE // 2
    async with database.transaction() as holder:
        await holder.execute("SELECT FROM user_activity WHERE user_id = $1 FOR UPDATE", people[middle])
        process = await command.start("--from", "2026-03-01")
        await until_blocked(database, 1)
        process.kill()
        await process.wait()
    found = await counts(database)
    # Users before the one at which it was killed, except those of the same bucket.
    done = [user for user in people if bucket_of(user) < bucket_of(people[middle])]
    assert done
    assert [found[user] for user in people] == [1 if user in done else 7 for user in people]
    code, output = await command.run("--from", "2026-03-01")
    assert code == 0, output
    assert f"differing {PEOPLE - len(done)} rows changed {PEOPLE - len(done)}" in output
    assert await counts(database) == dict.fromkeys(people, 1)
