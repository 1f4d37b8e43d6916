"""The sweep of lifecycle stages over a million profiles, a third of them due, during ingest.

The profiles are written by COPY, with real data keys, since each stage event is encrypted. Ingest runs alone, then
during the sweep, then alone again. The ceiling is the same change of as many people in plain SQL, on an idle
stack: one UPDATE each of profiles and activity, one INSERT each of event ids and events.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg

from benchmarks.cases.retention import ALONE_SECONDS, PEOPLE, Ingested, ingest_for, ingesting
from benchmarks.measure import Figure, until
from benchmarks.stack import Stack
from runtime.provisioning import in_namespace

_PROFILES = 1_000_000
_BATCH = 20_000
_SHARE_DUE = 3
_PATIENCE_SECONDS = 600.0
_TARGET_SECONDS = 60.0
_TARGET_INGEST = 0.9
_SCHEDULE = "system/stage-sweep"
_ANY_DUE = "SELECT EXISTS (SELECT FROM user_activity WHERE stage_due_at <= now())"
_BEHIND = """SELECT count(*) FROM events e JOIN log_cursors c ON c.shard = e.shard AND c.consumer = 'projector'
              WHERE (e.generation, e.xid, e.sequence) > (c.generation, c.xid, c.sequence)"""
_NO_SHARD = 99
"""A shard that no projector follows: the bodies of the ceiling's events are random."""
_USERS = (
    *("user_id", "email", "email_index", "name", "signup_date", "account_status", "lifecycle_stage"),
    *("lifecycle_stage_pinned", "privacy_preferences", "created_at", "lifecycle_stage_changed_at"),
)


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Measure the seconds of the sweep, and the rate of ingest during it."""
    profiles, alone_seconds = (_PROFILES // 20, ALONE_SECONDS / 3) if quick else (_PROFILES, ALONE_SECONDS)
    await stack.add_users("ret", PEOPLE, consents={"data_collection": True})
    schedule = in_namespace(stack.temporal, stack.settings.system_namespace).get_schedule_handle(_SCHEDULE)
    await schedule.pause()
    owner = await asyncpg.connect(stack.owner_url)
    try:
        await _fill(owner, stack, profiles)
        first = await ingest_for(stack, alone_seconds)
        during: list[Ingested] = []
        async with ingesting(stack, during):
            began = time.perf_counter()
            await schedule.trigger()
            await _until_none_is_due(owner)
            seconds = time.perf_counter() - began
        projected = await _seconds_until_projected(owner)
        last = await ingest_for(stack, alone_seconds)
        moved = await owner.fetchval("SELECT count(*) FROM users WHERE lifecycle_stage = 'at_risk'")
        bare = await _bare(owner)
    finally:
        await owner.close()
    details = {
        "profiles": profiles,
        "moved": moved,
        "projected_after_seconds": round(projected, 1),
        "ingest_alone_per_second": [round(first.per_second), round(last.per_second)],
        "processor_ms_each": during[0].processor_ms_each,
    }
    alone = (first.per_second + last.per_second) / 2
    return [_sweep_figure(seconds, bare, details), _ingest_figure(during[0].per_second, alone, details)]


def _sweep_figure(seconds: float, bare: float, details: dict[str, object]) -> Figure:
    return Figure(
        name="sweep",
        what=f"stage sweep over {details['profiles']:,} profiles, a third of them due, during ingest",
        value=round(seconds, 2),
        unit="s",
        ceiling=round(bare, 2),
        ceiling_what="the same change in four plain statements, idle",
        target=f"< {_TARGET_SECONDS:.0f} s",
        reached=seconds < _TARGET_SECONDS,
        details=details,
    )


def _ingest_figure(during: float, alone: float, details: dict[str, object]) -> Figure:
    return Figure(
        name="ingest during sweep",
        what="events ingested during the stage sweep",
        value=round(during, 1),
        unit="/s",
        ceiling=round(alone, 1),
        ceiling_what="the same without it, before and after",
        target=f">= {_TARGET_INGEST} of it",
        reached=during >= _TARGET_INGEST * alone,
        details=details,
    )


async def _fill(owner: asyncpg.Connection[asyncpg.Record], stack: Stack, count: int) -> None:
    """Profiles that are active: a third was last seen 20 days ago, the others yesterday."""
    now = datetime.now(UTC)
    year_ago, junk = now - timedelta(days=365), os.urandom(60)
    for begin in range(0, count, _BATCH):
        numbers = range(begin, min(begin + _BATCH, count))
        ids = [f"sweep-{number}" for number in numbers]
        last = [now - timedelta(days=1 if number % _SHARE_DUE else 20) for number in numbers]
        due = [each + timedelta(days=14) for each in last]
        rows: dict[str, tuple[Sequence[str], list[tuple[object, ...]]]] = {
            "data_keys": (("subject", "wrapped"), [(each, stack.cipher.new_key(each)[1]) for each in ids]),
            "users": (
                _USERS,
                [
                    (each, junk, os.urandom(32), junk, now, "active", "active", False, "{}", year_ago, year_ago)
                    for each in ids
                ],
            ),
            "consents": (
                ("user_id", "purpose", "granted"),
                [(each, "data_collection", True) for each in ids],
            ),
            "user_activity": (
                ("user_id", "session_count", "last_session_date", "stage_due_at"),
                [(each, 9, *times) for each, *times in zip(ids, last, due, strict=True)],
            ),
        }
        async with owner.transaction():
            for table, (columns, records) in rows.items():
                await owner.copy_records_to_table(table, columns=columns, records=records, timeout=600)
    for table in rows:
        await owner.execute(f"VACUUM (ANALYZE) {table}", timeout=600)


async def _until_none_is_due(owner: asyncpg.Connection[asyncpg.Record]) -> None:
    async def over() -> bool:
        await asyncio.sleep(0.2)  # more frequent reads would add load
        return not await owner.fetchval(_ANY_DUE)

    await until(over, _PATIENCE_SECONDS, "the sweep did not end")


async def _seconds_until_projected(owner: asyncpg.Connection[asyncpg.Record]) -> float:
    began = time.perf_counter()

    async def projected() -> bool:
        return not await owner.fetchval(_BEHIND, timeout=60)

    await until(projected, _PATIENCE_SECONDS, "the projector did not catch up")
    return time.perf_counter() - began


async def _bare(owner: asyncpg.Connection[asyncpg.Record]) -> float:
    """Seconds for the change of the second third of the people."""
    theirs = f"user_id LIKE 'sweep-%' AND split_part(user_id, '-', 2)::bigint % {_SHARE_DUE} = 1"
    await owner.execute(f"CREATE TEMP TABLE moved AS SELECT user_id FROM users WHERE {theirs}", timeout=600)
    began = time.perf_counter()
    async with owner.transaction():
        for statement in (
            """UPDATE users u SET lifecycle_stage = 'at_risk', version = version + 1
                 FROM moved m WHERE u.user_id = m.user_id""",
            """UPDATE user_activity a SET stage_due_at = stage_due_at + interval '16 days'
                 FROM moved m WHERE a.user_id = m.user_id""",
            "INSERT INTO event_ids SELECT md5(user_id), 0, now() FROM moved",
            f"""INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                    historical, body, dimensions)
                SELECT md5(user_id), user_id, 'lifecycle.stage_changed', now(), 'workflow:lifecycle', {_NO_SHARD},
                       1, false, decode(repeat(md5(user_id), 8), 'hex'),
                       '{{"from": "active", "to": "at_risk", "cause": "inactivity"}}'
                  FROM moved""",
        ):
            await owner.execute(statement, timeout=600)
    return time.perf_counter() - began
