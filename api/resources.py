"""The dependencies of one API process: settings, pools, keys, the Temporal client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from api.ingest import Ingest, Notifier
from api.throttle import FailureThrottle
from checks.health import Health
from checks.lag import gauges, log_state
from checks.workers import Workers
from models.errors import TemporalUnavailableError
from models.rules.stages import Periods
from privacy.encryption import Cipher
from privacy.keyring import KeyFile
from runtime.database import Database
from runtime.metrics import Gauge
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads, connect

_LIMITER_CONNECTIONS = 4
_HEALTH_TIMEOUT = timedelta(seconds=1)
TEMPORAL_DOWN = (RPCError, RuntimeError)
"""A client that never reached the server raises RuntimeError; one that has lost it raises RPCError."""


@dataclass
class Resources:
    """``limiter`` is a small pool for keys and rate limits. It never waits for requests that hold connections
    of ``database``, and its commits don't wait for the disk."""

    settings: Settings
    database: Database
    limiter: Database
    cipher: Cipher
    temporal: Client | None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is about to stop. A route that delays its answer then sends it."""
    failures: FailureThrottle = field(init=False)
    ingest: Ingest = field(init=False)
    health: Health = field(init=False)
    workers: Workers = field(init=False)
    _notifier: Notifier = field(init=False)
    _temporal_reached: bool = field(default=False, init=False)

    @property
    def periods(self) -> Periods:
        held = self.settings
        return Periods(
            session_timeout=held.session_timeout,
            at_risk_after=held.stage_at_risk_after,
            dormant_after=held.stage_dormant_after,
            churned_after=held.stage_churned_after,
        )

    def __post_init__(self) -> None:
        url = self.settings.require_database_url()
        self._notifier = Notifier(Database(url, size=1, application="notifier"))
        self.failures = FailureThrottle(self.settings.failed_authentications_per_minute)
        self.ingest = Ingest(self.database, self.cipher, self._notifier)
        self.health = Health(self.settings, self.database, self.cipher, self.temporal)
        self.workers = Workers(self.settings, self.temporal)

    @classmethod
    async def build(cls, settings: Settings) -> Resources:
        """Build everything from the settings without connecting. Raises the errors of bad settings or keys."""
        url = settings.require_database_url()
        ring = KeyFile(settings.require_key_file()).load()
        return cls(
            settings=settings,
            database=Database(url, size=settings.database_pool_size, application="api"),
            limiter=limiter_database(url),
            cipher=Cipher(ring),
            temporal=await connect(settings, EncryptedPayloads(ring.payload.current, ring.payload.keys)),
        )

    async def open(self) -> None:
        """Open the pools. They connect on use, so requests are 503 only for as long as Postgres is unreachable."""
        await self.database.open()
        await self.limiter.open()
        await self._notifier.open()

    async def metrics(self) -> list[Gauge]:
        """What `/metrics` shows. Raises the errors of Postgres."""
        async with self.database.connection() as connection:
            return gauges(await log_state(connection))

    async def close(self) -> None:
        await self.ingest.close()
        await asyncio.gather(self.database.close(), self.limiter.close(), self._notifier.close())

    async def require_temporal(self) -> Client:
        """The Temporal client, connected. Raises :class:`TemporalUnavailableError`.

        Its later calls raise RPCError if Temporal becomes unreachable, which :mod:`api.problems` answers with 503.
        """
        if self.temporal is None:
            raise TemporalUnavailableError
        if not self._temporal_reached:
            try:
                await self.temporal.service_client.check_health(timeout=_HEALTH_TIMEOUT)
            except TEMPORAL_DOWN:
                raise TemporalUnavailableError from None
            self._temporal_reached = True
        return self.temporal


def limiter_database(url: str) -> Database:
    """The pool for keys and rate limits. Their table is unlogged: a crash of Postgres resets the counts."""
    return Database(url, size=_LIMITER_CONNECTIONS, application="limiter", settings={"synchronous_commit": "off"})
