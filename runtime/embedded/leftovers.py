"""Children of a supervisor that was killed: recorded while they run, ended at the next start.

On Linux they die with their supervisor; this is for where and when they don't. A process id alone may have
been given to a stranger since, so the time it started and its command line have to match too.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

from runtime.embedded.home import Home, write_private
from runtime.embedded.processes import stop_strangers

_SAME_START_SECONDS = 1.0


def record(home: Home, process_ids: Iterable[int]) -> None:
    """Write down which processes belong to the running stack."""
    entries = []
    for process_id in process_ids:
        try:
            process = psutil.Process(process_id)
            entries.append(
                {"pid": process_id, "started": process.create_time(), "command": process.cmdline()},
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    write_private(_file(home), json.dumps(entries))


def stop_recorded(home: Home) -> None:
    """End what the last run has left, waiting for it; blocks."""
    try:
        entries = json.loads(_file(home).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return
    left = [process for entry in entries if (process := _still_alive(entry)) is not None]
    stop_strangers(left, (signal.SIGINT, 3.0))
    _file(home).unlink(missing_ok=True)


def _still_alive(entry: dict[str, object]) -> psutil.Process | None:
    process_id, started = entry.get("pid"), entry.get("started")
    if not isinstance(process_id, int) or not isinstance(started, int | float):
        return None
    try:
        process = psutil.Process(process_id)
        same_start = abs(process.create_time() - started) < _SAME_START_SECONDS
        return process if same_start and process.cmdline() == entry.get("command") else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _file(home: Home) -> Path:
    return home.run / "processes.json"
