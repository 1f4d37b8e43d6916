"""Whether a worker polls the task queue of instances."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from temporalio.client import Client

from checks import temporal
from checks.progress import last_sign
from delivery.temporal import POLLER_SILENT, last_poll
from runtime.provisioning import in_namespace
from runtime.settings import Settings

FRESH_SECONDS = 5.0


class Workers:
    """One for each process. Requests share a look, which holds for :data:`FRESH_SECONDS`."""

    def __init__(self, settings: Settings, client: Client | None) -> None:
        self._settings = settings
        self._client = client
        self._looking = asyncio.Lock()
        self._looked_at = -FRESH_SECONDS
        self._silent_since: datetime | None = None

    async def silent_since(self) -> datetime | None:
        """The last sign of a worker if none has polled for :data:`POLLER_SILENT`; None otherwise.

        Also None if Temporal doesn't answer: then nobody knows.
        """
        async with self._looking:
            if time.monotonic() - self._looked_at >= FRESH_SECONDS:
                self._silent_since = await self._look()
                self._looked_at = time.monotonic()
            return self._silent_since

    async def _look(self) -> datetime | None:
        if self._client is None:
            return None
        now = datetime.now(UTC)
        try:
            polled = await last_poll(self._client, self._settings.task_queue)
            if polled is not None:
                return polled if now - polled > POLLER_SILENT else None
            # Temporal forgets pollers after five minutes. The heartbeats of the system's jobs stay.
            return await last_sign(in_namespace(self._client, self._settings.system_namespace)) or now
        except temporal.AWAY:
            return None
