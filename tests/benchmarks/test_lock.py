"""The locks of benchmarks and mutants agree with the project's, which has none of their packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["benchmarks", "tests/mutation"])
def folder(request: pytest.FixtureRequest) -> Path:
    return ROOT / str(request.param)


@pytest.fixture
def lock(folder: Path) -> str:
    return (folder / "requirements.txt").read_text()


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)", lock, re.MULTILINE))


def test_the_lock_has_hashes_and_no_address_or_path(lock: str) -> None:
    assert not re.search(r"https?://|file:|^--|^-[a-z]| @ |^/", lock, re.MULTILINE)
    for block in re.split(r"\n(?=[a-z0-9])", lock):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_packages_in_both_locks_have_one_version(lock: str) -> None:
    project = versions((ROOT / "requirements.txt").read_text())
    shared = {name: version for name, version in versions(lock).items() if name in project}
    assert shared
    assert shared == {name: project[name] for name in shared}


def test_their_packages_are_no_dependency_of_the_project(folder: Path, lock: str) -> None:
    peers = re.findall(r"^[a-z0-9-]+", (folder / "requirements.in").read_text(), re.MULTILINE)
    assert peers
    assert set(peers) <= set(versions(lock))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = str(project["dependencies"] + project["optional-dependencies"]["dev"])
    assert not [name for name in peers if name in declared]
    assert not set(peers) & set(versions((ROOT / "requirements.txt").read_text()))
