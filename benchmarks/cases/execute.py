"""`POST /workflows/onboarding/execute` under load, against starts of the same workflow by Temporal's client."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.cases import starts
from benchmarks.http import Connection, connections
from benchmarks.measure import Burst, Figure, burst, spread
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from models.instances import NewInstance

_CONNECTIONS = 32
_TARGET = 0.8
_PATIENT: dict[str, str] = {}

Round = tuple[Burst, dict[str, float]]
"""A block, and milliseconds of processor time per start, by part of the stack."""


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Blocks in turns, without a pause: workers are as busy in one as in the next, and drift cancels."""
    size, pairs = (64, 2) if quick else (128, 8)
    users = await stack.add_users("execute", size * (pairs + 1))
    blocks = [users[begin : begin + size] for begin in range(0, len(users), size)]
    bare_users = await stack.add_users("start", size * (pairs + 1))
    new = [starts.new_instance(user_id, _PATIENT) for user_id in bare_users]
    await starts.store_instances(stack, new)
    over_http: list[Round] = []
    bare: list[Round] = []
    async with connections(stack.url, stack.key, _CONNECTIONS) as opened:
        for number, block in enumerate(blocks):
            theirs = new[number * size : (number + 1) * size]
            if number % 2:  # the two swap, so that neither always follows the other
                bare.append(await _bare(stack, theirs))
                over_http.append(await _http(stack, opened, block))
            else:
                over_http.append(await _http(stack, opened, block))
                bare.append(await _bare(stack, theirs))
    await starts.settled(stack, users + bare_users)
    return [_figure(over_http[1:], bare[1:])]  # the first pair warms up


async def _http(stack: Stack, opened: Sequence[Connection], users: Sequence[str]) -> Round:
    def worker(connection: Connection) -> Callable[[str], Awaitable[str]]:
        return lambda user_id: starts.execute(connection, user_id, _PATIENT)

    return await _measured(stack, lambda: burst(users, [worker(one) for one in opened]))


async def _bare(stack: Stack, new: Sequence[NewInstance]) -> Round:
    return await _measured(stack, lambda: burst(new, [lambda one: starts.start(stack, one)] * _CONNECTIONS))


async def _measured(stack: Stack, work: Callable[[], Awaitable[Burst]]) -> Round:
    before = processor_seconds(stack.pids)
    done = await work()
    return done, used(before, processor_seconds(stack.pids), done.count)


def _figure(over_http: Sequence[Round], bare: Sequence[Round]) -> Figure:
    ratios = [ours.per_second / theirs.per_second for (ours, _), (theirs, _) in zip(over_http, bare, strict=True)]
    ratio = statistics.median(ratios)
    return Figure(
        name="execute",
        what=f"POST /workflows/onboarding/execute, {_CONNECTIONS} connections",
        value=round(statistics.median(done.per_second for done, _ in over_http), 1),
        unit="/s",
        ceiling=round(statistics.median(done.per_second for done, _ in bare), 1),
        ceiling_what=f"starts of the same workflow by Temporal's client alone, {_CONNECTIONS} at once",
        target=f"≥ {_TARGET} of bare",
        reached=ratio >= _TARGET,
        details={
            "ratio": round(ratio, 3),
            "ratios": [round(value, 3) for value in ratios],
            "http": _details(over_http),
            "bare": _details(bare),
        },
    )


def _details(rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "per_second": [round(done.per_second, 1) for done, _ in rounds],
        **spread([taken for done, _ in rounds for taken in done.times_ms]),
        "processor_ms_each": {
            part: round(statistics.median(spent[part] for _, spent in rounds), 2) for part in rounds[0][1]
        },
    }
