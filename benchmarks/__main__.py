"""`python -m benchmarks [--only NAME] [--json FILE] [--quick]`."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import uvloop
from rich.console import Console

from benchmarks import catalogue, report
from benchmarks.cases import (
    audit,
    auth,
    completions,
    execute,
    imports,
    ingest,
    latency,
    onboarding,
    reads,
    retention,
    stream,
    volume,
    waiting,
)
from benchmarks.measure import Figure
from benchmarks.stack import Stack, running_stack


class Case(Protocol):
    """A benchmark: measures something on a running stack."""

    def __call__(self, stack: Stack, *, quick: bool) -> Awaitable[list[Figure]]:
        """The figures, each with its ceiling."""
        ...


CASES: Mapping[str, Case] = {
    "auth": auth.run,
    "get_user": reads.get_user,
    "get_instance": reads.get_instance,
    "audit": audit.run,
    "import": imports.run,
    "ingest": ingest.batches,
    "ingest_one": ingest.singles,
    "visible": stream.visible,
    "sustained": stream.sustained,
    "three_steps": latency.run,
    "execute": execute.run,
    "completions": completions.run,
    "onboarding": onboarding.run,
    "volume": volume.run,
    "retention": retention.run,
    "waiting": waiting.run,
}
"""In the order in which they disturb each other least: what leaves work behind comes last."""


async def measure(names: Sequence[str], console: Console, *, quick: bool) -> list[Figure]:
    """Run some benchmarks on one new stack."""
    figures = []
    async with running_stack() as stack:
        for name in names:
            console.print(f"{name} ...")
            gc.collect()
            figures += await CASES[name](stack, quick=quick)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON. A missed target is shown and no failure."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=CASES, help="one of them; may be repeated")
    parser.add_argument("--json", type=Path, default=Path("bench-results/latest.json"), help="where it goes")
    parser.add_argument("--quick", action="store_true", help="short rounds, to see that all of it works")
    options = parser.parse_args(arguments)
    catalogue.extend()
    console = Console(width=None if sys.stdout.isatty() else 160)
    names = [name for name in CASES if not options.only or name in options.only]
    facts = report.machine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack stops with us
    began = time.perf_counter()
    figures = uvloop.run(measure(names, console, quick=options.quick))
    report.show(console, figures)
    report.write(options.json, facts, figures, time.perf_counter() - began)
    console.print(f"Everything measured is in {options.json}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
