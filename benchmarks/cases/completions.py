"""Completions of a lifecycle workflow of three short steps, against a plain Temporal workflow on the same server.

Five kinds of runs take turns, 32 at once:

- instances started over HTTP, whose steps are local activities, as all short steps of Perennial are;
- the same, started with the client alone after their rows were inserted: this leaves the worker's part;
- instances started over HTTP, whose steps are ordinary activities;
- the plain workflow with ordinary activities, and with local ones.

Both workers run throughout, and every completion is awaited from Temporal. The target compares Perennial's short
steps with the plain workflow's ordinary activities, the usual way to write such a step. Two more figures compare
like with like.
"""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from temporalio.client import Client

from benchmarks import bare_steps
from benchmarks.cases import starts
from benchmarks.children import child
from benchmarks.http import Connection, connections
from benchmarks.measure import Burst, Figure, burst, spread
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from models.instances import NewInstance
from models.temporal.identity import temporal_workflow_id

WORKFLOW = "three_steps"
_AT_ONCE = 32
_TARGET = 0.75

Round = tuple[Burst, dict[str, float]]
"""A block, and milliseconds of processor time per run, by part of the stack."""


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Blocks in turns, in alternating order; the first of each kind warms up."""
    size, rounds = (64, 2) if quick else (128, 7)
    async with child("benchmarks.bare_steps", stack.temporal_address, stack.database_url) as pid:
        bare = await Client.connect(stack.temporal_address)
        async with connections(stack.url, stack.key, _AT_ONCE) as opened:
            kinds = Kinds(stack, bare, opened, {**stack.pids, "bare_worker": pid})
            taken: dict[str, list[Round]] = {name: [] for name in kinds.runs}
            for number in range(rounds + 1):
                users = await stack.add_users(f"steps-{number}-", size)
                for name in kinds.runs if number % 2 else reversed(kinds.runs):
                    taken[name].append(await kinds.runs[name](users))
    return _figures({name: each[1:] for name, each in taken.items()})


class Kinds:
    """The five kinds of runs."""

    def __init__(self, stack: Stack, bare: Client, opened: Sequence[Connection], pids: Mapping[str, int]) -> None:
        self._stack = stack
        self._bare_client = bare
        self._opened = opened
        self._pids = pids
        self.runs: dict[str, Callable[[Sequence[str]], Awaitable[Round]]] = {
            "short": lambda users: self._http(users, apart=False),
            "short_by_client": self._client,
            "apart": lambda users: self._http(users, apart=True),
            "bare_apart": lambda users: self._bare(users, apart=True),
            "bare_local": lambda users: self._bare(users, apart=False),
        }

    async def _http(self, users: Sequence[str], *, apart: bool) -> Round:
        async def one(connection: Connection, user_id: str) -> None:
            instance_id = await starts.execute(connection, user_id, {"apart": apart}, WORKFLOW)
            await self._stack.temporal.get_workflow_handle(temporal_workflow_id(WORKFLOW, instance_id)).result()

        def worker(connection: Connection) -> Callable[[str], Awaitable[None]]:
            return lambda user_id: one(connection, user_id)

        return await self._measured(lambda: burst(users, [worker(each) for each in self._opened]))

    async def _client(self, users: Sequence[str]) -> Round:
        new = [starts.new_instance(user_id, {}, WORKFLOW) for user_id in users]
        await starts.store_instances(self._stack, new)

        async def one(instance: NewInstance) -> None:
            await (await starts.start(self._stack, instance)).result()

        return await self._measured(lambda: burst(new, [one] * _AT_ONCE))

    async def _bare(self, users: Sequence[str], *, apart: bool) -> Round:
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


def _figures(taken: Mapping[str, Sequence[Round]]) -> list[Figure]:
    rows = (
        ("completions", "short", "bare_apart"),
        ("completions, all local", "short", "bare_local"),
        ("completions, all ordinary", "apart", "bare_apart"),
    )
    alone = _ratios(taken["short_by_client"], taken["bare_local"])
    figures = [_figure(name, taken[ours], taken[theirs], (ours, theirs)) for name, ours, theirs in rows]
    figures[1].details["started_by_the_client_alone"] = {"ratio": statistics.median(alone), "ratios": alone}
    figures[0].details["blocks"] = {name: _details(each) for name, each in taken.items()}
    return figures


_WORDS = {
    "short": "three short steps (local activities)",
    "apart": "three steps as ordinary activities",
    "bare_apart": "three ordinary activities",
    "bare_local": "three local activities",
}


def _figure(name: str, ours: Sequence[Round], theirs: Sequence[Round], kinds: tuple[str, str]) -> Figure:
    ratios = _ratios(ours, theirs)
    ratio = statistics.median(ratios)
    return Figure(
        name=name,
        what=f"executed over HTTP until completed, {_WORDS[kinds[0]]}, {_AT_ONCE} at once",
        value=_rate(ours),
        unit="/s",
        ceiling=_rate(theirs),
        ceiling_what=f"a plain Temporal workflow of {_WORDS[kinds[1]]} with the same statements",
        target=f"≥ {_TARGET} of it",
        reached=ratio >= _TARGET,
        details={"ratio": round(ratio, 3), "ratios": ratios},
    )


def _details(rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "per_second": [round(done.per_second, 1) for done, _ in rounds],
        **spread([taken for done, _ in rounds for taken in done.times_ms]),
        "processor_ms_each": {
            part: round(statistics.median(spent[part] for _, spent in rounds), 2) for part in rounds[0][1]
        },
    }


def _ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> list[float]:
    return [round(a.per_second / b.per_second, 3) for (a, _), (b, _) in zip(ours, theirs, strict=True)]


def _rate(rounds: Sequence[Round]) -> float:
    return round(statistics.median(done.per_second for done, _ in rounds), 1)
