"""Follows the guide to a first workflow in a copy of the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.embedded.directories import temporary_directory
from tests.embedded.running import RunningStack
from tests.support.processes import ROOT
from workflows.base import LifecycleWorkflow
from workflows.catalog import catalog

GUIDE = (ROOT / "docs" / "writing-a-workflow.md").read_text()
_BLOCK = re.compile(r"```(python|sh|text) ?(\S*)\n(.*?)```", re.DOTALL)
FILES: dict[str, str] = {name: text for kind, name, text in _BLOCK.findall(GUIDE) if kind == "python" and name}
SECTIONS = re.split(r"^## ", GUIDE, flags=re.MULTILINE)
WITHOUT_A_STACK = [each for each in SECTIONS if each.startswith(("1. ", "2. ", "An activity of your own"))]
"""The parts of the guide that write files, and need no running stack."""
SHIPPED = " or ".join(f"[{name}" for name in catalog())
"""In the names of tests, the workflows of the catalogue."""
OTHER = '''"""Parameters of any kind, without a trigger, an exit, a message or a reason of its end."""

from typing import Literal

from workflows.authoring import Duration, LifecycleWorkflow, Parameters, days, lifecycle


class PlainParameters(Parameters):
    """Of any kind."""

    wait: Duration = days(1)
    """How long to wait."""
    rounds: int = 2
    """How often."""
    invoice_id: str | None = None
    """Which invoice."""
    tone: Literal["formal", "friendly"] = "formal"
    """How it sounds."""
    aloud: bool = False
    """Whether it is heard."""


@lifecycle("plain", purpose="marketing")
class Plain(LifecycleWorkflow[PlainParameters]):
    """Waits a few times for a while, and then ends without a word about it."""

    async def journey(self, parameters: PlainParameters) -> None:
        for number in range(parameters.rounds):
            await self.sleep(parameters.wait, name=f"wait_{number}")
'''


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository."""
    copy = tmp_path / "repository"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__"))
    return copy


def _run(copy: Path, *command: str | Path) -> str:
    """Run a command in the copy; returns its output."""
    done = subprocess.run(
        command,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def _pytest(copy: Path, *arguments: str) -> str:
    return _run(copy, sys.executable, "-m", "pytest", "-q", *arguments)


def _check(copy: Path) -> None:
    """The checks of style and documents, and the tests that go over the catalogue: those of the new workflows."""
    for arguments in (("check", "--no-cache", "."), ("format", "--no-cache", "--check", ".")):
        _run(copy, Path(sys.executable).with_name("ruff"), *arguments)
    _pytest(
        copy,
        *("tests/workflows/test_catalog.py", "tests/workflows/test_history.py", "tests/workflows/test_stories.py"),
        *(
            "tests/workflows_api/test_definitions.py",
            "tests/docs/test_references.py",
            "tests/workflows/test_good_hour.py",
        ),
        *("-k", f"(catalog or history or each or workflow or document) and not ({SHIPPED})"),
    )


def _follow(copy: Path, section: str) -> None:
    """Write the section's files, run its commands, and compare what they print."""
    printed = ""
    for kind, name, text in _BLOCK.findall(section):
        if kind == "python" and name:
            (copy / name).write_text(text)
        elif kind == "sh":
            printed = ""
            for line in text.strip().splitlines():
                words = shlex.split(line)
                if words[:2] == ["make", "test"]:
                    printed += _pytest(copy, *shlex.split(words[2].removeprefix("ARGS=")))
                else:
                    assert words[0] == ".venv/bin/perennial", line
                    printed += _run(copy, sys.executable, "-m", "cli", *words[1:])
        elif kind == "text":
            assert text == printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_step_of_the_guide_leaves_the_tests_green(copy: Path) -> None:
    assert len(WITHOUT_A_STACK) == 3
    assert len(FILES) == 5
    for section in WITHOUT_A_STACK:
        _follow(copy, section)
        _check(copy)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_workflow_with_any_parameters_and_a_recording_leaves_the_tests_green(copy: Path) -> None:
    (copy / "workflows" / "lifecycle" / "plain.py").write_text(OTHER)
    with pytest.raises(AssertionError, match="perennial record-history plain"):
        _pytest(copy, "tests/workflows/test_history.py", "-k", "committed")
    _run(copy, sys.executable, "-m", "cli", "record-history")
    _check(copy)


@pytest.mark.slow
def test_the_guide_s_workflow_runs_in_a_new_stack(copy: Path) -> None:
    for name, text in FILES.items():
        (copy / name).write_text(text)
    found = re.search(r"```sh\n(.*?)```\n```json\n(.*?)\n```", GUIDE.split("## 3.")[1], re.DOTALL)
    assert found is not None
    script, expected = found.groups()
    with temporary_directory() as directory, RunningStack(directory / "home", root=copy) as stack:
        api = stack.wait_until_up()["api"]
        script = script.replace("http://127.0.0.1:8080", api).replace(".perennial/", f"{stack.home}/")
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout


def test_the_guide_explains_every_call_of_a_journey() -> None:
    calls = {name for name, each in vars(LifecycleWorkflow).items() if callable(each) and not name.startswith("_")}
    assert calls
    assert not [call for call in calls if f"self.{call}(" not in GUIDE]
