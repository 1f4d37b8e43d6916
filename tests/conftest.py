"""Settings and places of all tests. The fixtures are those of :mod:`testing`."""

from __future__ import annotations

import os

import pytest

_SHARE_A_STACK = {"operations"}
_SETTINGS_OF_TESTS = ("PERENNIAL_CHAOS_", "PERENNIAL_SAMPLE_DATA")

# No test sees the settings of the terminal, or finds a stack that runs in the checkout.
for _name in [name for name in os.environ if name.startswith("PERENNIAL_")]:
    if not _name.startswith(_SETTINGS_OF_TESTS):
        del os.environ[_name]
os.environ["PERENNIAL_HOME"] = "/nonexistent"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each file to one test process (`--dist loadgroup`), or the whole folder if its tests share a stack."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder in _SHARE_A_STACK else str(item.path)))
