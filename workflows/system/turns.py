"""How a system workflow keeps an activity going for as long as there are workers: turn after turn."""

from __future__ import annotations

from datetime import timedelta

from temporalio.common import RetryPolicy

HEARTBEAT = timedelta(seconds=5)
"""How soon the work of a dead worker moves to a living one."""
TURN = timedelta(hours=1)
"""Far above what such an activity takes by itself before it returns and history begins anew."""
RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=2)
)
