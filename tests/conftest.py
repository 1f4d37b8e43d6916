"""Settings and places of all tests. The fixtures are those of :mod:`testing`."""

from __future__ import annotations

import os

import pytest

_PROCESSES_OF_A_FOLDER = {"addresses", "api_url", "stack"}
"""Fixtures that start API and worker processes once for a folder."""
_SETTINGS_OF_TESTS = ("PERENNIAL_CHAOS_", "PERENNIAL_SAMPLE_DATA")

# No test sees the settings of the terminal, or finds a stack that runs in the checkout.
for _name in [name for name in os.environ if name.startswith("PERENNIAL_")]:
    if not _name.startswith(_SETTINGS_OF_TESTS):
        del os.environ[_name]
os.environ["PERENNIAL_HOME"] = "/nonexistent"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each file to one test process (`--dist loadgroup`), and all tests of a folder's processes to one.

    These tests come first, because they take longest. Otherwise one test process would end alone with them.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(str(item.path.parent if _shares(item) else item.path)))
    items.sort(key=lambda item: not _shares(item))


def _shares(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and not _PROCESSES_OF_A_FOLDER.isdisjoint(item.fixturenames)
