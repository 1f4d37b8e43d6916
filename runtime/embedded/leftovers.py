"""Ends processes of an earlier run whose supervisor was killed.

On Linux children end with their supervisor. This module is for other systems, and for Postgres backends whose
postmaster was killed.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

from runtime.embedded.home import Home, write_private
from runtime.embedded.processes import stop_processes

_SAME_START_SECONDS = 1.0
_POSTMASTER_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 2.0))
_ORPHAN_SECONDS = 2.0


def record(home: Home, process_ids: Iterable[int]) -> None:
    """Store the processes of the running stack."""
    entries = []
    for process_id in process_ids:
        try:
            process = psutil.Process(process_id)
            entries.append({"pid": process_id, "started": process.create_time(), "command": process.cmdline()})
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    write_private(_file(home), json.dumps(entries))


def stop_recorded(home: Home) -> None:
    """End the recorded processes that still run. Blocks until they have ended."""
    try:
        entries = json.loads(_file(home).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return
    alive = [process for entry in entries if (process := _find(entry)) is not None]
    stop_processes(alive, (signal.SIGINT, 3.0))
    _file(home).unlink(missing_ok=True)


def stop_postgres(data: Path) -> None:
    """End every Postgres process in ``data``. Blocks until the directory is free.

    The postmaster shuts down cleanly. Backends without a postmaster usually end by themselves; after two seconds
    they are killed, because a new postmaster refuses the directory while one runs.
    """
    postmaster_file = data / "postmaster.pid"
    if not postmaster_file.exists():
        return
    postmaster_id = _first_number(postmaster_file)
    working = _working_in(data)
    stop_processes([process for process in working if process.pid == postmaster_id], *_POSTMASTER_STEPS)
    _, remaining = psutil.wait_procs(working, timeout=_ORPHAN_SECONDS)
    if remaining:
        stop_processes(remaining)


def _find(entry: dict[str, object]) -> psutil.Process | None:
    process_id, started = entry.get("pid"), entry.get("started")
    if not isinstance(process_id, int) or not isinstance(started, int | float):
        return None
    try:
        process = psutil.Process(process_id)
        # The system reuses process ids: start time and command line must match too.
        same_start = abs(process.create_time() - started) < _SAME_START_SECONDS
        return process if same_start and process.cmdline() == entry.get("command") else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _working_in(data: Path) -> list[psutil.Process]:
    directory = str(data.resolve())
    # Every Postgres process changes into its data directory.
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


def _file(home: Home) -> Path:
    return home.run / "processes.json"
