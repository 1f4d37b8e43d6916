"""`perennial rebuild`.

Users are compared page by page, each page in a snapshot and without locks. Those who differ are compared again
and written in transactions of their own, one for each bucket of users. If the process or Postgres dies:

1. before such a commit: the users of the bucket are as before.
2. during it, without an answer: all their rows are replaced, or none.
3. after it: they are right. Another run finds them equal, and goes on with the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import asyncpg
from rich.console import Console
from rich.table import Table

from cli.common import ACTOR, for_running_stack
from cli.rebuild import Part
from clients.importer.progress import Reporter, print_text, reporter
from models.audit import SYSTEM, AuditEntry, Detail
from models.rules.sharding import bucket_of
from models.rules.stages import Periods
from privacy.encryption import Cipher
from privacy.keyring import KeyFile
from runtime.database import Database
from runtime.settings import ConfigurationError, load_settings
from store.audit import entries
from store.connection import Connection, use_background_settings
from store.consents import locks
from store.events import partitions, rebuilding, replacing
from store.events.rebuilding import Comparison, RetentionMovedError
from store.rollups import rebuilding as rollups
from store.rollups.rebuilding import Month, UnreadableEventsError

PAGE = 500
"""Users in one snapshot."""
GATHERED = 2560
"""Differing users are written once there are so many: some ten in a bucket, which share a transaction."""
TRIES = 10
"""Attempts at a transaction that retention or a deadlock has stopped."""


@dataclass
class Summary:
    users: int = 0
    complete: int = 0
    unreadable: int = 0
    differing: int = 0
    rows: int = 0
    """Rows that were inserted, replaced or deleted."""


@dataclass
class ProjectionRebuild:
    """One run."""

    database: Database
    cipher: Cipher
    periods: Periods
    since: datetime
    dry_run: bool = False
    summary: Summary = field(default_factory=Summary)

    async def run(self, report: Reporter) -> None:
        """Raises :class:`ConfigurationError` if another rebuild writes."""
        async with self.database.session() as session:
            if not self.dry_run and not await rebuilding.try_lock(session):
                raise ConfigurationError("Another rebuild is running; wait for its end.")
            await self._record(session, {})
            after = ""
            differing: list[str] = []
            while user_ids := await rebuilding.page_of_users(session, after, PAGE):
                differing += await self._page(user_ids)
                if len(differing) >= GATHERED:
                    await self._write(differing)
                    differing = []
                report.rows_done(len(user_ids))
                after = user_ids[-1]
            await self._write(differing)
            # This commit waits for the disk, and so for all before it.
            await self._record(session, {"users": self.summary.users, "rows": self.summary.rows})

    async def _record(self, connection: Connection, counts: dict[str, Detail]) -> None:
        details = {"since": self.since.isoformat(), "dry_run": self.dry_run, **counts}
        await entries.append(connection, [AuditEntry(ACTOR, SYSTEM, "projections.rebuild", details=details)])

    async def _page(self, user_ids: Collection[str]) -> Collection[str]:
        """Compare users; returns those to be written."""
        found = await self._compared(user_ids)
        self.summary.users += found.users
        self.summary.complete += found.complete
        self.summary.unreadable += len(found.unreadable)
        if self.dry_run:
            self.summary.differing += len(found.differences)
            return ()
        return found.differences.keys()

    async def _write(self, user_ids: Collection[str]) -> None:
        by_bucket: dict[int, list[str]] = defaultdict(list)
        for user_id in user_ids:
            by_bucket[bucket_of(user_id)].append(user_id)
        for _, each in sorted(by_bucket.items()):
            await self._replace(each)

    async def _compared(self, user_ids: Collection[str]) -> Comparison:
        for _ in range(TRIES):
            try:
                async with (
                    self.database.connection() as connection,
                    connection.transaction(isolation="repeatable_read", readonly=True),
                ):
                    await use_background_settings(connection)
                    return await self._compare(connection, user_ids)
            except RetentionMovedError:
                continue
        raise ConfigurationError("Retention is deleting events; run it again later.")

    async def _compare(self, connection: Connection, user_ids: Collection[str]) -> Comparison:
        return await rebuilding.compare(
            connection, self.cipher, user_ids, self.since, self.periods.session_timeout
        )

    async def _replace(self, user_ids: Collection[str]) -> None:
        for _ in range(TRIES):
            try:
                async with self.database.transaction() as connection:
                    await use_background_settings(connection)
                    await locks.exclude(connection, user_ids)
                    found = await self._compare(connection, user_ids)
                    rows = await replacing.replace(connection, found, self.periods, ACTOR)
            except (RetentionMovedError, asyncpg.DeadlockDetectedError):
                continue
            self.summary.differing += len(found.differences)
            self.summary.rows += rows
            return
        raise ConfigurationError("Retention is deleting events; run it again later.")


@dataclass
class RollupSummary:
    months: int = 0
    events: int = 0
    differing: int = 0
    unreadable: int = 0
    """Months that were left, since an event can't be read."""


@dataclass
class RollupRebuild:
    """One run, month by month. The compactor waits while a month is read; ingest and projectors go on."""

    database: Database
    cipher: Cipher
    since: datetime
    dimension_values: int
    dry_run: bool = False
    summary: RollupSummary = field(default_factory=RollupSummary)

    async def run(self, note: Callable[[str], None]) -> None:
        """Raises :class:`ConfigurationError` if another rebuild runs."""
        async with self.database.session() as session:
            if not await rebuilding.try_lock(session):
                raise ConfigurationError("Another rebuild is running; wait for its end.")
            await self._record(session, {})
            months = [each.begins for each in await partitions.find_all(session) if each.begins >= self.since]
            for begins in months:
                await rollups.pause(session)
                try:
                    await self._month(session, begins, note)
                finally:
                    await rollups.resume(session)
            await self._record(session, {"months": self.summary.months, "rows": self.summary.differing})

    async def _month(self, session: Connection, begins: datetime, note: Callable[[str], None]) -> None:
        for _ in range(TRIES):
            try:
                return await self._try_month(session, begins, note)
            except (asyncpg.UniqueViolationError, asyncpg.SerializationError):
                continue  # a projector has registered the same series since the snapshot
        raise ConfigurationError(f"{begins:%Y-%m} can't be replaced beside the projectors; run it again later.")

    async def _try_month(self, session: Connection, begins: datetime, note: Callable[[str], None]) -> None:
        transaction = session.transaction(isolation="repeatable_read")
        await transaction.start()
        done = False
        try:
            month = Month.of(begins, await rebuilding.kept_since(session, self.since))
            if month is None:
                return
            found = await rollups.rebuild_month(session, self.cipher, month, self.dimension_values)
            done = not self.dry_run
        except UnreadableEventsError:
            self.summary.unreadable += 1
            note(f"{begins:%Y-%m}: left as it is, since an event can't be read")
            return
        finally:
            await (transaction.commit() if done else transaction.rollback())
        self.summary.months += 1
        self.summary.events += found.events
        self.summary.differing += found.differing
        note(f"{begins:%Y-%m}: {found.events:,} events, {found.differing:,} rows and entries differ")

    async def _record(self, connection: Connection, counts: dict[str, Detail]) -> None:
        details = {"since": self.since.isoformat(), "dry_run": self.dry_run, **counts}
        await entries.append(connection, [AuditEntry(ACTOR, SYSTEM, "rollups.rebuild", details=details)])


async def run_rebuild(
    output: Console, since: datetime, *, only: Part | None, dry_run: bool, home: Path | None
) -> int:
    """Returns the exit code."""
    from worker import periods_of

    given = load_settings()
    settings = for_running_stack(given, home)
    ring = KeyFile(settings.key_file or (home or given.home) / "keys.json").load()
    database = Database(settings.require_database_url(), size=2, application="cli")
    await database.open()
    try:
        cipher, failed = Cipher(ring), False
        if only is not Part.ROLLUPS:
            run = ProjectionRebuild(database, cipher, periods_of(settings), since, dry_run)
            async with database.connection() as connection:
                users = await rebuilding.count_users(connection)
            with reporter(output, users, "Comparing" if dry_run else "Rebuilding", "users") as report:
                await run.run(report)
            _show(output, run.summary, dry_run)
            failed = bool(run.summary.unreadable or (dry_run and run.summary.differing))
        if only is not Part.PROJECTIONS:
            again = RollupRebuild(database, cipher, since, settings.dimension_values, dry_run)
            await again.run(lambda text: print_text(output, text))
            failed |= bool(again.summary.unreadable or (dry_run and again.summary.differing))
        return 1 if failed else 0
    finally:
        await database.close()


def _show(output: Console, summary: Summary, dry_run: bool) -> None:
    counts = {
        "users": summary.users,
        "of them with their whole history in the log": summary.complete,
        "differing": summary.differing,
    }
    if not dry_run:
        counts["rows changed"] = summary.rows
    if summary.unreadable:
        counts["left, since their events can't be read"] = summary.unreadable
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    output.print(table)
