"""The application over a real Postgres, as the tests of the API have it, and no months that others left."""

from __future__ import annotations

import pytest

from store.connection import Connection
from tests.api.conftest import api, api_settings, app, limiter, no_temporal, resources
from tests.retention.filling import boundary, standings

__all__ = ["api", "api_settings", "app", "limiter", "no_temporal", "resources"]


@pytest.fixture(autouse=True)
async def no_old_months(owner: Connection) -> None:
    """Drop months that are past 365 days: each would be waited for before the one that a test looks at."""
    for name in await standings(owner):
        if name < f"events_{boundary():%Y_%m}":
            await owner.execute(f"DROP TABLE {name}")
