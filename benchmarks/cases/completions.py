"""Completions of a lifecycle workflow of three short steps, against a hand-written one on the same server.

Three things take turns, 32 at once, each started when an earlier one has completed: instances over HTTP; the same
with the client alone, their rows stored before, which leaves the worker's part; and the hand-written workflow.
Both workers run all along, and both kinds of completion are learnt of in the same way, from Temporal.

Once with local activities, as which the platform carries short steps out, and once with ordinary ones.
"""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Awaitable, Callable, Sequence

from temporalio.client import Client

from benchmarks import bare_steps
from benchmarks.cases import starts
from benchmarks.children import child
from benchmarks.http import Connection, connections
from benchmarks.measure import Burst, Figure, burst, spread
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from models.messages.identity import temporal_workflow_id
from store.instances import NewInstance

WORKFLOW = "three_steps"
_AT_ONCE = 32
_TARGET = 0.75

Round = tuple[Burst, dict[str, float]]
"""What was completed, and the processor's milliseconds for each by part of the stack."""


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Blocks in turns, in changing order."""
    size, pairs = (64, 2) if quick else (160, 8)
    async with child("benchmarks.bare_steps", stack.temporal_address, stack.database_url) as pid:
        bare = await Client.connect(stack.temporal_address)
        pids = {**stack.pids, "bare_worker": pid}
        async with connections(stack.url, stack.key, _AT_ONCE) as opened:
            sides = Sides(stack, bare, opened, pids)
            return [await sides.figure(size, pairs, apart=apart) for apart in (False, True)]


class Sides:
    """What takes turns."""

    def __init__(self, stack: Stack, bare: Client, opened: Sequence[Connection], pids: dict[str, int]) -> None:
        self._stack = stack
        self._bare_client = bare
        self._opened = opened
        self._pids = pids

    async def figure(self, size: int, pairs: int, *, apart: bool) -> Figure:
        """Measure one kind of steps; the first blocks warm up."""
        kinds = (self._http, self._client, self._bare)
        rounds: tuple[list[Round], ...] = ([], [], [])
        for number in range(pairs + 1):
            users = await self._stack.add_users(f"steps-{apart}-{number}-", size)
            order = range(3) if number % 2 else reversed(range(3))
            for which in order:
                rounds[which].append(await kinds[which](users, apart))
        return _figure([each[1:] for each in rounds], apart)

    async def _http(self, users: Sequence[str], apart: bool) -> Round:
        async def one(connection: Connection, user_id: str) -> None:
            instance_id = await starts.execute(connection, user_id, {"apart": apart}, WORKFLOW)
            await self._stack.temporal.get_workflow_handle(temporal_workflow_id(WORKFLOW, instance_id)).result()

        def worker(connection: Connection) -> Callable[[str], Awaitable[None]]:
            return lambda user_id: one(connection, user_id)

        return await self._measured(lambda: burst(users, [worker(each) for each in self._opened]))

    async def _client(self, users: Sequence[str], apart: bool) -> Round:
        new = [starts.new_instance(user_id, {"apart": apart}, WORKFLOW) for user_id in users]
        await starts.store_instances(self._stack, new)

        async def one(instance: NewInstance) -> None:
            await (await starts.start(self._stack, instance)).result()

        return await self._measured(lambda: burst(new, [one] * _AT_ONCE))

    async def _bare(self, users: Sequence[str], apart: bool) -> Round:
        async def one(user_id: str) -> None:
            await self._bare_client.execute_workflow(
                "bare_steps",
                args=[user_id, apart],
                id=f"bare-steps-{uuid.uuid4().hex}",
                task_queue=bare_steps.QUEUE,
            )

        return await self._measured(lambda: burst(users, [one] * _AT_ONCE))

    async def _measured(self, work: Callable[[], Awaitable[Burst]]) -> Round:
        before = processor_seconds(self._pids)
        done = await work()
        return done, used(before, processor_seconds(self._pids), done.count)


def _figure(rounds: Sequence[Sequence[Round]], apart: bool) -> Figure:
    http, client, bare = rounds
    ratios, alone = _ratios(http, bare), _ratios(client, bare)
    ratio = statistics.median(ratios)
    steps = "ordinary activities" if apart else "short steps"
    return Figure(
        name="completions, apart" if apart else "completions",
        what=f"executed over HTTP until completed, three {steps}, {_AT_ONCE} at once",
        value=_rate(http),
        unit="/s",
        ceiling=_rate(bare),
        ceiling_what=f"a hand-written workflow of the same three {'' if apart else 'local '}activities",
        target=f"≥ {_TARGET} of it",
        reached=ratio >= _TARGET,
        details={
            "ratio": round(ratio, 3),
            "ratios": ratios,
            "started_by_the_client_alone": {"ratio": round(statistics.median(alone), 3), "ratios": alone},
            **{
                name: {
                    "per_second": [round(done.per_second, 1) for done, _ in each],
                    **spread([taken for done, _ in each for taken in done.times_ms]),
                    "processor_ms_each": {
                        part: round(statistics.median(spent[part] for _, spent in each), 2) for part in each[0][1]
                    },
                }
                for name, each in zip(("http", "client", "bare"), rounds, strict=True)
            },
        },
    )


def _ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> list[float]:
    return [round(a.per_second / b.per_second, 3) for (a, _), (b, _) in zip(ours, theirs, strict=True)]


def _rate(rounds: Sequence[Round]) -> float:
    return round(statistics.median(done.per_second for done, _ in rounds), 1)
