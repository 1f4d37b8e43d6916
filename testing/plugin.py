"""The pytest plugin of the test kit: it loads the fixtures."""

from __future__ import annotations

pytest_plugins = ["testing.database", "testing.temporal"]
