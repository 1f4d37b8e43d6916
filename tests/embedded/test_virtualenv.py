"""`make` in several terminals of a fresh clone installs the packages once."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.embedded.running import ROOT

pytestmark = pytest.mark.slow

PIP = """
import os, sys, time
if os.path.exists("installing"):
    sys.exit("two installations at once")
with open("installations", "a") as log:
    log.write("installation\\n")
open("installing", "x").close()
time.sleep(1)
os.unlink("installing")
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with our Makefile, whose pip writes down that it runs."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "pip").mkdir()
    for file in ("Makefile", "deploy/virtualenv.py", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(PIP)
    return tmp_path


def make(clone: Path) -> subprocess.Popen[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["make", "setup"],
        cwd=clone,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(clone)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_makes_at_the_same_time_install_once_and_all_end_well(clone: Path) -> None:
    outputs = [(process.communicate()[0], process.returncode) for process in [make(clone) for _ in range(4)]]
    assert [code for _, code in outputs] == [0] * 4, outputs
    assert sum("installing the locked packages" in output for output, _ in outputs) == 1
    assert (clone / "installations").read_text().splitlines() == ["installation"] * 2, "the lock, then the project"
    assert "Nothing to be done" in make(clone).communicate()[0]


def test_after_a_kill_the_next_make_waits_for_pip_and_installs_again(clone: Path) -> None:
    first = make(clone)
    while not (clone / "installing").exists():
        time.sleep(0.01)
    *others, pip = psutil.Process(first.pid).children(recursive=True)
    assert "pip" in pip.cmdline()
    for process in others:
        process.kill()
    first.kill()
    output, _ = make(clone).communicate()
    first.communicate()
    assert (clone / ".venv" / ".ready").exists(), output
    assert (clone / "installations").read_text().splitlines() == ["installation"] * 3
