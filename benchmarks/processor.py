"""Processor time of each part of the stack, since all parts share one machine."""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil


def processor_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """User and system time so far of each part with its children, and of this process as `load`."""
    parts = {name: _with_children(pid) for name, pid in pids.items()}
    own = os.times()
    return {**parts, "load": own.user + own.system}


def used(before: Mapping[str, float], after: Mapping[str, float], operations: int) -> dict[str, float]:
    """Milliseconds of processor time per operation, by part."""
    return {name: round((after[name] - before[name]) * 1000 / operations, 3) for name in after}


def _with_children(pid: int) -> float:
    # Each connection of Postgres is a child of its first process.
    total = 0.0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for member in family:
        try:
            spent = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system
    return total
