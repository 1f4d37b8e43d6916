import asyncio
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from runtime.embedded import leftovers
from runtime.embedded.home import Home
from runtime.embedded.processes import ChildProcess, Command, last_line
from tests.embedded.running import ROOT

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)
PARENT = """
import asyncio, os, pathlib, sys
from runtime.embedded.processes import ChildProcess, Command
async def main():
    child = await ChildProcess.spawn(Command(["sleep", "60"], pathlib.Path(sys.argv[1]), os.environ))
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""


async def test_a_child_dies_with_a_killed_supervisor(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.communicate()
    child.wait(timeout=3)


async def test_a_child_that_ignores_sigterm_is_killed_in_time(tmp_path: Path) -> None:
    child = await ChildProcess.spawn(_python(STUBBORN, tmp_path))
    while last_line(tmp_path / "log") != "up":
        await asyncio.sleep(0.01)
    began = time.monotonic()
    assert await child.stop((signal.SIGTERM, 0.2)) == -signal.SIGKILL
    assert time.monotonic() - began >= 0.2


async def test_a_child_leads_its_own_session_and_writes_to_a_closed_log(tmp_path: Path) -> None:
    child = await ChildProcess.spawn(_python("import os; print(os.getpid(), os.getsid(0))", tmp_path))
    assert await child.wait() == 0
    assert last_line(tmp_path / "log") == f"{child.pid} {child.pid}"
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0


async def test_a_program_runs_with_its_niceness(tmp_path: Path) -> None:
    command = replace(_python("import os; print(os.nice(0))", tmp_path), niceness=5)
    child = await ChildProcess.spawn(command)
    assert await child.wait() == 0
    assert last_line(tmp_path / "log") == str(os.nice(0) + 5)


async def test_a_missing_program_is_an_exit_code_and_a_line_in_the_log(tmp_path: Path) -> None:
    child = await ChildProcess.spawn(Command(["/no/such/program"], tmp_path / "log", os.environ))
    assert await child.wait() != 0
    assert "/no/such/program" in (tmp_path / "log").read_text() or last_line(tmp_path / "log")


async def test_recorded_leftovers_are_stopped_and_reused_process_ids_are_not(home: Home, tmp_path: Path) -> None:
    left, other = await _sleeper(tmp_path / "left"), await _sleeper(tmp_path / "other")
    leftovers.record(home, [left.pid, other.pid])
    record = home.run / "processes.json"
    started = psutil.Process(other.pid).create_time()
    record.write_text(record.read_text().replace(str(started), str(started - 60)))

    await asyncio.to_thread(leftovers.stop_recorded, home)

    await left.wait()
    assert other.exit_code is None
    await other.stop()


def test_the_last_line_of_no_log_is_empty(tmp_path: Path) -> None:
    assert last_line(tmp_path / "none") == ""


@pytest.mark.parametrize("content", ["a\nthe end\n\n", "the end"])
def test_the_last_line_is_the_last_that_is_not_blank(tmp_path: Path, content: str) -> None:
    (tmp_path / "log").write_text(content)
    assert last_line(tmp_path / "log") == "the end"


async def _sleeper(directory: Path) -> ChildProcess:
    """Return a child that has become its program and sleeps."""
    child = await ChildProcess.spawn(_python("import time; print('up', flush=True); time.sleep(60)", directory))
    while last_line(directory / "log") != "up":
        await asyncio.sleep(0.01)
    return child


def _python(code: str, directory: Path) -> Command:
    return Command([sys.executable, "-c", code], directory / "log", os.environ)
