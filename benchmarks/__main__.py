"""`python -m benchmarks [--quick] [--json FILE] [--against CHECKOUT [--rounds N]] [NAME ...]`."""

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

from benchmarks import catalogue, comparison, report
from benchmarks.cases import (
    audit,
    auth,
    completions,
    execute,
    imports,
    ingest,
    latency,
    onboarding,
    profiles,
    reads,
    retention,
    rollups,
    stream,
    sweep,
    volume,
    waiting,
)
from benchmarks.measure import Figure
from benchmarks.stack import Stack, running_stack

_FOLDER = Path("bench-results")


class Case(Protocol):
    """Measures something on a running stack; ``quick`` shortens it."""

    def __call__(self, stack: Stack, *, quick: bool) -> Awaitable[list[Figure]]: ...


# The order in which they disturb each other least: cases that leave work behind come last.
CASES: Mapping[str, Case] = {
    "auth": auth.run,
    "get_user": reads.get_user,
    "get_instance": reads.get_instance,
    "audit": audit.run,
    "import": imports.run,
    "profiles": profiles.run,
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
    "sweep": sweep.run,
    "rollups": rollups.run,
    "waiting": waiting.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON. A missed target is marked, and is no failure."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    facts = report.machine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack stops with this process
    began = time.perf_counter()
    if options.against is None:
        catalogue.extend()
        names = [name for name in CASES if not options.names or name in options.names]
        figures = uvloop.run(_measure(names, console, quick=options.quick))
        report.show(console, figures)
        measured = report.document(figures)
    else:
        measured = comparison.compare(options.against, options.names or comparison.CASES, options.rounds, console)
    path = options.json or _FOLDER / ("latest.json" if options.against is None else "comparison.json")
    report.write(path, facts, measured, time.perf_counter() - began)
    console.print(f"All measurements are in {path}.")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; all without one")
    parser.add_argument("--json", type=Path, help=f"the file to write, in {_FOLDER}/ by default")
    parser.add_argument("--quick", action="store_true", help="short rounds, to check that every case works")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the code of this checkout")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of blocks of each case (with --against)")
    options = parser.parse_args(arguments)
    known = CASES if options.against is None else comparison.CASES
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(known)}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.against is not None:
        options.against = options.against.absolute()
        if not comparison.python_of(options.against).exists():
            parser.error(f"{options.against} has no virtual environment: run `make setup` there")
    return options


async def _measure(names: Sequence[str], console: Console, *, quick: bool) -> list[Figure]:
    figures = []
    async with running_stack() as stack:
        for name in names:
            console.print(f"{name} ...")
            gc.collect()  # the garbage of one case is no part of the next
            figures += await CASES[name](stack, quick=quick)
    return figures


if __name__ == "__main__":
    sys.exit(main())
