"""Postgres processes that outlived their supervisor or their postmaster."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from runtime.embedded.processes import stop_strangers

_POSTMASTER_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 2.0))
_ORPHAN_SECONDS = 2.0


def stop_leftovers(data: Path) -> None:
    """End every Postgres process that still works in ``data``; blocks until the directory is free.

    A postmaster is stopped in good order. Backends whose postmaster was killed end by themselves within
    moments, and until then a new postmaster refuses the directory; those that don't are killed.
    """
    postmaster_file = data / "postmaster.pid"
    if not postmaster_file.exists():
        return
    postmaster_id = _first_number(postmaster_file)
    working = _working_in(data)
    stop_strangers([process for process in working if process.pid == postmaster_id], *_POSTMASTER_STEPS)
    _, remaining = psutil.wait_procs(working, timeout=_ORPHAN_SECONDS)
    if remaining:
        stop_strangers(remaining)


def _working_in(data: Path) -> list[psutil.Process]:
    """Every Postgres process changes into its data directory; ours are those that are in this one."""
    directory = str(data.resolve())
    return [
        process
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] == "postgres" and process.info["cwd"] == directory
    ]


def _first_number(file: Path) -> int | None:
    try:
        return int(file.read_text("utf-8").splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
