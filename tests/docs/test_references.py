"""Documents name files and decisions that exist."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

from tests.support.processes import ROOT

PAGES = sorted(chain(ROOT.glob("*.md"), ROOT.glob("docs/**/*.md")))
PACKAGES = (
    "activities|api|benchmarks|checks|cli|clients|delivery|deploy|docs|examples|migrations|models|privacy|runtime|store"
    "|testing|tests|workflows"
)
_PATH = re.compile(rf"`((?:{PACKAGES})/[\w/.-]*)`")
_GUIDE = (ROOT / "docs" / "writing-a-workflow.md").read_text()
_WRITTEN_BY_THE_GUIDE = set(re.findall(r"^```python (\S+)$", _GUIDE, re.MULTILINE))
DECISIONS = sorted(ROOT.glob("docs/adr/[0-9]*.md"))


def test_the_files_that_the_documents_link_to_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_files_that_the_documents_name_exist() -> None:
    named = {(page.name, path) for page in PAGES for path in _PATH.findall(page.read_text())}
    assert len(named) > 100
    missing = {(page, path) for page, path in named if not (ROOT / path).exists()}
    assert not {(page, path) for page, path in missing if path not in _WRITTEN_BY_THE_GUIDE}


def test_the_decisions_have_numbers_without_gaps_and_are_listed() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    for page in DECISIONS:
        number, title = re.match(r"# (\d{4}): (.+)\n", page.read_text()).groups()  # type: ignore[union-attr]
        assert page.name.startswith(number)
        assert f"[{number}]({page.name}) | {title}" in index


def test_code_and_documents_refer_to_decisions_that_exist() -> None:
    numbers = {page.name[:4] for page in DECISIONS}
    for file in [*PAGES, *_sources()]:
        for reference in re.findall(r"\bADRs? (\d{4}(?:(?:, | and )\d{4})*)", file.read_text()):
            for number in re.findall(r"\d{4}", reference):
                assert number in numbers, f"{file} refers to {number}"


def _sources() -> list[Path]:
    """The Python files of the product and of its tests."""
    roots = [ROOT / package for package in PACKAGES.split("|")]
    return [*ROOT.glob("*.py"), *(file for root in roots for file in root.rglob("*.py"))]
