"""An empty Temporal, beside that of all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from runtime.temporal import EncryptedPayloads
from testing.temporal import skipping_temporal


@pytest.fixture
async def fresh(codec: EncryptedPayloads) -> AsyncIterator[Client]:
    """As after the loss of Temporal's database."""
    async with skipping_temporal(codec) as environment:
        yield environment.client
