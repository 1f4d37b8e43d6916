"""Timing of operations: one after another, several at once, and in turns."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
Operation = Callable[[], Awaitable[Any]]

WARM_UP = 25
"""Runs of an operation before it is timed, and in a block when several operations take turns."""


@dataclass(frozen=True)
class Figure:
    """A measurement and its ceiling, in the same unit."""

    name: str
    what: str
    value: float
    unit: str
    ceiling: float
    ceiling_what: str
    target: str = ""
    reached: bool | None = None
    """None without a target."""
    details: dict[str, Any] = field(default_factory=dict)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the count of times in milliseconds."""
    return {
        "p50_ms": round(statistics.median(values), 3),
        "p99_ms": round(percentile(values, 99), 3),
        "count": len(values),
    }


async def times(operation: Operation, count: int) -> list[float]:
    """Milliseconds of each of ``count`` operations, one after the other."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        await operation()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


async def in_turns(operations: Sequence[Operation], count: int, block: int = WARM_UP) -> list[list[float]]:
    """Milliseconds of each operation, ``count`` times in short blocks by turns, after a block that warms it up.

    The turns show every operation the same drift of the machine.
    """
    for operation in operations:
        await times(operation, block)
    taken: list[list[float]] = [[] for _ in operations]
    for _ in range(max(1, count // block)):
        for mine, operation in zip(taken, operations, strict=True):
            mine.extend(await times(operation, block))
    return taken


@dataclass(frozen=True)
class Burst:
    """The times of many operations, several of which ran at once."""

    count: int
    seconds: float
    times_ms: Sequence[float]

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


async def burst(work: Iterable[T], workers: Sequence[Callable[[T], Awaitable[Any]]]) -> Burst:
    """Do all of ``work``; each worker does one piece at a time."""
    pending = iter(list(work))
    taken: list[float] = []

    async def run(operation: Callable[[T], Awaitable[Any]]) -> None:
        for piece in pending:
            began = time.perf_counter()
            await operation(piece)
            taken.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for operation in workers:
            group.create_task(run(operation))
    return Burst(len(taken), time.perf_counter() - began, taken)


async def until(condition: Callable[[], Awaitable[bool]], within: float, failure: str) -> float:
    """Wait until a condition holds; returns the seconds. Raises TimeoutError with ``failure``."""
    began = time.perf_counter()
    while not await condition():
        if time.perf_counter() - began > within:
            raise TimeoutError(f"{failure} within {within:.0f} s")
        await asyncio.sleep(0.05)
    return time.perf_counter() - began
