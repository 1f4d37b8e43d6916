"""Follows the page on dunning, line by line, in a new stack."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.embedded.directories import temporary_directory
from tests.embedded.running import RunningStack
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "dunning.md").read_text()
STEPS = re.findall(r"```sh\n(.*?)```\n```json\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_every_line_of_the_page_works_and_prints_the_documented_answer() -> None:
    """The customer has no consent at all."""
    script = "set -eu -o pipefail\n"
    for number, (text, _) in enumerate(STEPS):
        script += f"echo; echo '=== {number}'\n{text}\n"
    with temporary_directory() as directory, RunningStack(directory / "home") as stack:
        api = stack.wait_until_up()["api"]
        given = f"export API={api}\nexport KEY=$(cat {stack.home}/admin.key)\n"
        done = subprocess.run(
            ["bash", "-c", given + script], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = re.split(r"=== \d+\n", done.stdout)[1:]
    assert len(outputs) == 4
    for (text, expected), output in zip(STEPS, outputs, strict=True):
        assert expected in output, (text, output)


def test_the_guide_shows_the_workflow_as_it_is() -> None:
    guide = (ROOT / "docs" / "writing-a-workflow.md").read_text()
    section = guide.split("## A second example: dunning")[1].split("\n## ")[0]
    shown = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)
    code = (ROOT / "workflows" / "lifecycle" / "dunning.py").read_text()
    assert len(shown) == 3
    assert [each for each in shown if each not in code] == []
