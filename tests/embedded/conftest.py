"""Directories and homes for real servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.embedded.home import Home
from tests.embedded.directories import temporary_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path


@pytest.fixture
def home(directory: Path) -> Home:
    return Home(directory / "some" / "home")
