"""Runs the README's tour, line by line, against a new stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.embedded.directories import temporary_directory
from tests.embedded.running import ROOT, RunningStack

README = (ROOT / "README.md").read_text()
_BLOCK = re.compile(r"```(sh|json)\n(.*?)```", re.DOTALL)


def tour() -> list[tuple[str, list[str]]]:
    """The tour's shell blocks, each with what its output must hold."""
    section = README.split("## A tour of five minutes")[1].split("\n## ")[0]
    steps: list[tuple[str, list[str]]] = []
    for kind, text in _BLOCK.findall(section):
        if kind == "sh":
            steps.append((text, []))
        else:
            steps[-1][1].append(text.strip())
    return steps


@pytest.mark.slow
def test_every_line_of_the_tour_works_and_prints_the_documented_answer() -> None:
    steps = tour()
    assert sum(len(expected) for _, expected in steps) >= 5
    with temporary_directory() as directory, RunningStack(directory / "home") as stack:
        api = stack.wait_until_up()["api"]
        script = "set -eu -o pipefail\n"
        for number, (text, _) in enumerate(steps):
            script += f"echo '=== {number}'\n{text}\n"
        script = (
            script.replace("http://127.0.0.1:8080", api)
            .replace(".perennial/", f"{stack.home}/")
            .replace(".venv/bin/perennial", f"{sys.executable} -m cli")
        )
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env={**os.environ, "PERENNIAL_HOME": str(stack.home)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    outputs = re.split(r"=== \d+\n", done.stdout)[1:]
    for (text, expected), output in zip(steps, outputs, strict=True):
        if not any('"code"' in piece for piece in expected):
            assert '"status":4' not in output, (text, output)
        for piece in expected:
            assert piece in output, (text, output)


def test_the_readme_leads_to_every_page() -> None:
    assert not [page.name for page in ROOT.glob("docs/*.md") if f"](docs/{page.name})" not in README]


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    makefile = Path(ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
