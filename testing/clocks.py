"""Where the virtual clocks of instances start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client, Interceptor, OutboundInterceptor, StartWorkflowInput, WorkflowHandle
from temporalio.testing import WorkflowEnvironment


def delay_until(clock: datetime | None) -> timedelta | None:
    """How far ahead of now a clock starts. Raises ValueError for a time in the past."""
    if clock is None:
        return None
    delay = clock - datetime.now(UTC)
    if delay < timedelta():
        raise ValueError("a virtual clock starts now or later, since Temporal moves it only forwards")
    return delay


class _StartLater(Interceptor):
    """Starts workflows after a delay, which virtual time skips."""

    def __init__(self, delay: timedelta) -> None:
        self.delay = delay

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002 - the SDK's name
        return _Later(next, self.delay)


class _Later(OutboundInterceptor):
    def __init__(self, following: OutboundInterceptor, delay: timedelta) -> None:
        super().__init__(following)
        self._delay = delay

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:  # noqa: A002
        input.start_delay = self._delay
        return await super().start_workflow(input)


def starting_later(client: Client, delay: timedelta | None) -> Client:
    """A client whose workflows begin after the delay, and no time passes meanwhile."""
    if delay is None:
        return client
    config = client.config()
    config["interceptors"] = [*config["interceptors"], _StartLater(delay)]
    return Client(**config)


@contextlib.contextmanager
def started(environment: WorkflowEnvironment, *, still: bool) -> Iterator[None]:
    """Instances that are started meanwhile have a clock that skips, or one that stands ``still``."""
    with environment.with_time_skipping_disabled() if still else contextlib.nullcontext():
        yield
