"""Follows the guide to a first workflow in a copy of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.embedded.directories import temporary_directory
from tests.embedded.running import RunningStack
from tests.support.processes import ROOT
from workflows.base import LifecycleWorkflow

GUIDE = (ROOT / "docs" / "writing-a-workflow.md").read_text()
_FILE = re.compile(r"```python (\S+)\n(.*?)```", re.DOTALL)
FILES: dict[str, str] = dict(_FILE.findall(GUIDE))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository with the guide's files."""
    copy = tmp_path / "repository"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "docs", "histories")
    )
    for name, text in FILES.items():
        (copy / name).write_text(text)
    return copy


def test_the_guide_s_workflow_passes_the_guide_s_tests_and_the_catalogue_s(copy: Path) -> None:
    files = FILES
    assert set(files) == {
        "workflows/lifecycle/renewal_reminder.py",
        "tests/workflows/test_renewal_reminder.py",
        "activities/lifecycle/loyalty.py",
        "workflows/lifecycle/loyalty_points.py",
        "tests/workflows/test_loyalty_points.py",
    }
    ruff = Path(sys.executable).with_name("ruff")
    lint = subprocess.run(
        [ruff, "check", "--no-cache", *files], cwd=copy, capture_output=True, text=True, timeout=60, check=False
    )
    assert lint.returncode == 0, lint.stdout
    tests = [name for name in files if name.startswith("tests/")]
    guards = "tests/workflows/test_catalog.py"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *tests,
            guards,
            "-k",
            "renewal or loyalty or described or deterministic",
        ],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "renewal_reminder" not in done.stderr
    assert "loyalty" not in done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    # the guide's; each workflow's parameters and file
    assert int(passed[1]) >= 2 + 3 + 8 + 8, done.stdout


@pytest.mark.slow
def test_the_guide_s_workflow_runs_in_a_new_stack(copy: Path) -> None:
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
