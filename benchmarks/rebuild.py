"""Events a second of `perennial rebuild`: ``python -m benchmarks.rebuild [EVENTS] [USERS]``.

It fills a scratch database and projects the events. Then it measures a read of the events alone, and comparisons
and rebuilds: of projections of which each user differs, and of rollups that are empty.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

from rich.console import Console

from cli.rebuilding import ProjectionRebuild, RollupRebuild
from clients.importer.progress import reporter
from models.rules.series import DIMENSION_VALUES
from models.rules.stages import DEFAULT_PERIODS
from privacy.encryption import Cipher
from privacy.keyring import KeyFile
from runtime import migrate
from runtime.database import Database
from runtime.embedded.postgres import scratch_postgres
from runtime.settings import Settings
from tests.support.log import Happening, Log, click, purchase

CHUNK = 5000
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def _happening(user: str, draw: random.Random) -> Happening:
    """One in ten is a purchase, one in ten a click on a feature."""
    at = BEGINNING + timedelta(seconds=draw.randint(0, 300 * 86_400))
    session, kind = f"s-{at:%j-%H}", draw.random()
    if kind < 0.1:
        return purchase(user, "19.99", timestamp=at, session_id=session)
    if kind < 0.2:
        return click(user, "export", timestamp=at, session_id=session)
    return Happening(user, timestamp=at, session_id=session)


async def _timed(name: str, events: int, work: Callable[[], Awaitable[object]]) -> None:
    began, used = time.monotonic(), time.process_time()
    await work()
    seconds = time.monotonic() - began
    print(f"{name}: {events / seconds:,.0f} events/s ({seconds:.1f} s, own {time.process_time() - used:.1f} s)")


async def _measure(database: Database, cipher: Cipher, events: int, users: int) -> None:
    log, draw = Log(database, cipher), random.Random(1)
    people = [await log.person() for _ in range(users)]
    for _ in range(0, events, CHUNK):
        await log.write(*(_happening(draw.choice(people), draw) for _ in range(CHUNK)))
    await _timed("projection", events, log.project)

    async def rebuild(dry_run: bool) -> None:
        run = ProjectionRebuild(database, cipher, DEFAULT_PERIODS, BEGINNING, dry_run)
        with reporter(Console(file=StringIO()), users) as report:
            await run.run(report)
        print(run.summary)

    async def rebuild_rollups() -> None:
        run = RollupRebuild(database, cipher, BEGINNING, DIMENSION_VALUES)
        await run.run(lambda text: None)
        print(run.summary)

    async def read() -> None:
        async with database.connection() as connection:
            await connection.fetch("SELECT * FROM events")

    async with database.connection() as connection:
        await connection.execute("ANALYZE")
    await _timed("read alone", events, read)
    await _timed("comparison", events, lambda: rebuild(True))
    async with database.connection() as connection:
        await connection.execute("UPDATE user_activity SET session_count = 0; DELETE FROM sessions")
    await _timed("rebuild of all users", events, lambda: rebuild(False))
    async with database.connection() as connection:
        for table in ("deltas", "hours", "people", "index", "sessions"):
            await connection.execute(f"DELETE FROM rollup_{table}")
    await _timed("rebuild of empty rollups", events, rebuild_rollups)
    await _timed("comparison of rollups", events, rebuild_rollups)


async def main(events: int, users: int) -> None:
    async with scratch_postgres() as server:
        settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
        await asyncio.to_thread(migrate.upgrade, settings)
        database = Database(server.runtime_url, size=4, application="bench")
        await database.open()
        with tempfile.TemporaryDirectory() as folder:
            file = KeyFile(Path(folder) / "keys.json")
            file.create()
            await _measure(database, Cipher(file.load()), events, users)
        await database.close()


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    asyncio.run(main(*(given or [200_000, 4000])))
