"""200 onboardings at once until all have ended, against a plain Temporal workflow with the same steps."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from benchmarks.bare import QUEUE, Script
from benchmarks.cases import starts
from benchmarks.children import child
from benchmarks.http import connections
from benchmarks.measure import Figure, burst, until
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from models.temporal.identity import temporal_workflow_id

_AT_ONCE = 32
_WITHIN = 300.0
_SHORT = {"first_activity_within": "PT2S", "nudge_within": "PT2S"}
_WAIT_SECONDS = 2.0


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Rounds in turns. Raises RuntimeError unless every instance ended as expected."""
    size, rounds = (50, 1) if quick else (200, 2)
    users = await stack.add_users("onboarding", size * rounds + 1)
    script = await _script(stack, users.pop())
    ours, bare = [], []
    processor: dict[str, float] = {}
    async with _bare_worker(stack) as client:
        for number in range(rounds):
            part = users[number * size : (number + 1) * size]
            before = processor_seconds(stack.pids)
            ours.append(await _onboard(stack, part))
            processor = used(before, processor_seconds(stack.pids), size)
            bare.append(await _run_bare(client, script, size))
    seconds, ceiling = statistics.median(ours), statistics.median(bare)
    return [
        Figure(
            name="onboarding",
            what=f"{size} onboardings executed at once, until all have ended (two waits of 2 s in each)",
            value=round(seconds, 1),
            unit="s",
            ceiling=round(ceiling, 1),
            ceiling_what=f"a plain Temporal workflow of the same shape ({script}), whose activities do nothing",
            details={
                "seconds": [round(value, 2) for value in ours],
                "bare_seconds": [round(value, 2) for value in bare],
                "per_second": round(size / seconds, 1),
                "bare_per_second": round(size / ceiling, 1),
                "processor_ms_each": processor,
            },
        )
    ]


async def _onboard(stack: Stack, users: Sequence[str]) -> float:
    began = time.perf_counter()
    async with connections(stack.url, stack.key, _AT_ONCE) as opened:
        workers = [lambda user_id, one=one: starts.execute(one, user_id, _SHORT) for one in opened]
        await burst(users, workers)

    async def all_ended() -> bool:
        async with stack.database.connection() as connection:
            ended = await connection.fetchval(
                "SELECT count(*) FROM instances WHERE user_id = ANY($1::text[]) AND end_time IS NOT NULL",
                list(users),
            )
        return bool(ended == len(users))

    await until(all_ended, _WITHIN, "the onboardings did not end")
    seconds = time.perf_counter() - began
    await _check(stack, users)
    return seconds


async def _check(stack: Stack, users: Sequence[str]) -> None:
    """Each has completed, sent welcome and nudge once, and moved the user to `at_risk`."""
    async with stack.database.connection() as connection:
        right = await connection.fetchval(
            """SELECT count(*) FROM users u JOIN instances i USING (user_id)
                WHERE u.user_id = ANY($1::text[]) AND i.status = 'completed' AND u.lifecycle_stage = 'at_risk'
                  AND 2 = (SELECT count(*) FROM messages m WHERE m.instance_id = i.instance_id)
                  AND 2 = (SELECT count(DISTINCT template) FROM messages m WHERE m.instance_id = i.instance_id)""",
            list(users),
        )
    if right != len(users):
        raise RuntimeError(f"{len(users) - right} of {len(users)} onboardings did not end as expected")


async def _script(stack: Stack, user_id: str) -> Script:
    """The steps of an onboarding in the order of its history: `a`ctivity, `l`ocal activity, `t`imer."""
    async with connections(stack.url, stack.key) as [connection]:
        instance_id = await starts.execute(connection, user_id, _SHORT)
    handle = stack.temporal.get_workflow_handle(temporal_workflow_id(starts.WORKFLOW, instance_id))
    await handle.result()
    kinds = {
        EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: "a",
        EventType.EVENT_TYPE_MARKER_RECORDED: "l",
        EventType.EVENT_TYPE_TIMER_STARTED: "t",
    }
    history = await handle.fetch_history()
    return "".join(kinds.get(event.event_type, "") for event in history.events)


@asynccontextmanager
async def _bare_worker(stack: Stack) -> AsyncIterator[Client]:
    """A worker for the plain workflow, in a process of its own as Perennial's is."""
    async with child("benchmarks.bare", stack.temporal_address):
        yield await Client.connect(stack.temporal_address)


async def _run_bare(client: Client, script: Script, size: int) -> float:
    began = time.perf_counter()
    handles: list[str] = [f"bare-{uuid.uuid4().hex}" for _ in range(size)]

    async def start(workflow_id: str) -> None:
        await client.start_workflow(
            "bare", args=[script, _WAIT_SECONDS], id=workflow_id, task_queue=QUEUE, result_type=None
        )

    await burst(handles, [start] * _AT_ONCE)
    await asyncio.gather(*(client.get_workflow_handle(workflow_id).result() for workflow_id in handles))
    return time.perf_counter() - began
