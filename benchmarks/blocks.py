"""One side of a comparison: starts a stack, then runs the case named by each line of standard input.

:mod:`benchmarks.comparison` runs this file with the Python and the packages of either checkout, so it imports only
names that commit 900307d already had. For each line it writes the block's figures as a line of JSON, or `null`
where the block failed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict

import uvloop

from benchmarks import catalogue
from benchmarks.__main__ import CASES
from benchmarks.stack import Stack, running_stack


def make_cases_repeatable() -> None:
    """Give every block users of its own, since an onboarding starts once per user.

    Users with consents only send events, so later blocks use those of the first: creating 20,000 takes longer
    than a block of ingest.
    """
    created: dict[tuple[str, int], list[str]] = {}
    blocks = iter(range(sys.maxsize))
    add_users = Stack.add_users

    async def add(
        self: Stack, prefix: str, count: int, *, consents: Mapping[str, bool] | None = None
    ) -> list[str]:
        if consents is None:
            return await add_users(self, f"block{next(blocks)}-{prefix}", count)
        if (prefix, count) not in created:
            created[prefix, count] = await add_users(self, prefix, count, consents=consents)
        return created[prefix, count]

    setattr(Stack, "add_users", add)  # noqa: B010 - mypy rejects an assignment to a method


async def serve(output: int) -> None:
    """Start a stack, and run a block for each line until standard input ends."""
    async with running_stack() as stack:
        os.write(output, b'"ready"\n')
        while name := (await asyncio.to_thread(sys.stdin.readline)).strip():
            gc.collect()
            try:
                figures = [asdict(figure) for figure in await CASES[name](stack, quick=True)]
            except Exception:  # noqa: BLE001 - one block must not end a run of many minutes
                traceback.print_exc()
                figures = None
            os.write(output, json.dumps(figures).encode() + b"\n")


if __name__ == "__main__":
    results = os.dup(1)
    os.dup2(2, 1)  # cases print their progress, which must not mix with results
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    catalogue.extend()
    make_cases_repeatable()
    uvloop.run(serve(results))
