"""The API over a real Postgres, and no expired partitions of other tests."""

from __future__ import annotations

import pytest

from store.connection import Connection
from tests.api.conftest import api, api_settings, app, limiter, no_temporal, resources
from tests.retention.filling import boundary, partition_states

__all__ = ["api", "api_settings", "app", "limiter", "no_temporal", "resources"]


@pytest.fixture(autouse=True)
async def no_old_partitions(owner: Connection) -> None:
    """Drop partitions older than 365 days: a purge would drop each of them before the test's own."""
    for name in await partition_states(owner):
        if name < f"events_{boundary():%Y_%m}":
            await owner.execute(f"DROP TABLE {name}")
