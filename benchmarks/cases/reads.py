"""Latency of reads on an idle stack, one after the other."""

from __future__ import annotations

from benchmarks.cases import starts
from benchmarks.http import connections
from benchmarks.measure import WARM_UP, Figure, in_turns, spread
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from models.temporal.identity import temporal_workflow_id

_INSTANCE_TARGET_MS = 20.0


async def get_instance(stack: Stack, *, quick: bool) -> list[Figure]:
    """`GET` of a running instance, against the describe and the SELECT that it needs."""
    count = 200 if quick else 1000
    [user_id] = await stack.add_users("instance", 1)
    bare = await stack.bare_connection()
    async with connections(stack.url, stack.key) as [connection]:
        instance_id = await starts.execute(connection, user_id, {})
        await starts.settled(stack, [user_id])
        path = f"/workflows/{starts.WORKFLOW}/instances/{instance_id}"
        handle = stack.temporal.get_workflow_handle(temporal_workflow_id(starts.WORKFLOW, instance_id))

        async def over_http() -> None:
            await connection.get(path)

        async def describe() -> None:
            await handle.describe()

        async def select() -> None:
            await bare.fetchrow("SELECT * FROM instances WHERE instance_id = $1", instance_id)

        try:
            before = processor_seconds(stack.pids)
            ours, described, selected = await in_turns([over_http, describe, select], count)
            spent = used(before, processor_seconds(stack.pids), count + WARM_UP)
        finally:
            await bare.close()
    return [_instance_figure(spread(ours), spread(described), spread(selected), spent["api"])]


def _instance_figure(
    ours: dict[str, float], described: dict[str, float], selected: dict[str, float], api: float
) -> Figure:
    return Figure(
        name="get_instance",
        what="GET of a running instance, idle, p99",
        value=ours["p99_ms"],
        unit="ms",
        ceiling=described["p99_ms"],
        ceiling_what="bare Temporal describe, p99",
        target=f"p99 < {_INSTANCE_TARGET_MS:.0f} ms",
        reached=ours["p99_ms"] < _INSTANCE_TARGET_MS,
        details={"http": ours, "describe": described, "select": selected, "api_processor_ms_each": api},
    )


async def get_user(stack: Stack, *, quick: bool) -> list[Figure]:
    """`GET` of a profile, against a SELECT by its primary key."""
    count = 200 if quick else 1000
    [user_id] = await stack.add_users("read", 1)
    bare = await stack.bare_connection()
    async with connections(stack.url, stack.key) as [connection]:

        async def over_http() -> None:
            await connection.get(f"/users/{user_id}")

        async def select() -> None:
            await bare.fetchrow("SELECT * FROM users WHERE user_id = $1", user_id)

        try:
            before = processor_seconds(stack.pids)
            ours, selected = await in_turns([over_http, select], count)
            spent = used(before, processor_seconds(stack.pids), count + WARM_UP)
        finally:
            await bare.close()
    mine, theirs = spread(ours), spread(selected)
    return [
        Figure(
            name="get_user",
            what="GET of a profile, idle, p99",
            value=mine["p99_ms"],
            unit="ms",
            ceiling=theirs["p99_ms"],
            ceiling_what="bare SELECT by primary key, p99",
            details={"http": mine, "select": theirs, "api_processor_ms_each": spent["api"]},
        )
    ]
