"""Records the histories of lifecycle workflows, for `perennial record-history`.

Each workflow of the catalogue has up to four courses: to the end, exited, paused and resumed, cancelled. A trigger
starts the instance if the workflow has one. The time is virtual; Postgres, Temporal and the mail server are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.service import RPCError

from models.instances import StoredInstance
from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.postgres import scratch_postgres
from runtime.migrate import upgrade
from runtime.settings import Settings
from testing.histories import CODEC, RING, keep
from testing.mail import MailServer
from testing.people import Customers
from testing.runs import Run, Runs
from testing.samples import parameters_of, properties_of
from testing.temporal import skipping_temporal
from worker import build_worker
from workflows.catalog import Definition

_WITHIN = 120.0


class NotRecordedError(Exception):
    """The workflow didn't take the course; the text says how it ended instead."""


@dataclass(frozen=True)
class Course:
    """A course that an author asks for: an event at a wait, and then on to the end."""

    name: str
    wait: str
    event_type: str


@dataclass(frozen=True)
class Recording:
    """What to record, and where."""

    directory: Path
    course: Course | None = None
    """None: the four courses that any workflow can take."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Of the events that start it and that reach it."""
    parameters: Mapping[str, Any] | None = None
    """If given, a request starts it, and not its trigger."""
    again: bool = False
    """Whether to replace existing files."""


async def record(definitions: Sequence[Definition], recording: Recording, say: Callable[[str], None]) -> None:
    """Write the missing histories, and name each file with the end of its instance.

    Raises :class:`NotRecordedError`. A file is written after its instance has ended as wanted, so a crash leaves
    out the rest.
    """
    async with _stack() as (runs, customers):
        for definition in definitions:
            for name, course in _courses(recording).items():
                customer = await customers.new(*Purpose, timezone="Europe/Berlin")
                try:
                    async with asyncio.timeout(_WITHIN):
                        run = await course(_Scene(runs, definition, recording, customer.user_id))
                except TimeoutError:
                    raise NotRecordedError(f"{definition.workflow_id} did not end: {name}") from None
                if run is None:
                    continue
                instance, history = await runs.context(run), await run.handle.fetch_history()
                file = keep(recording.directory, run.workflow_id, name, history, again=recording.again)
                say(f"{file}: {instance.status}" + (f", {instance.reason}" if instance.reason else ""))


@dataclass(frozen=True)
class _Scene:
    """One instance of a recording."""

    runs: Runs
    definition: Definition
    recording: Recording
    user_id: str

    async def start(self, *, still: bool) -> Run:
        definition, given = self.definition, self.recording.parameters
        trigger = definition.trigger if given is None else None
        if trigger is None:
            parameters = {**parameters_of(definition), **(given or {})}
            return await self.runs.start(self.user_id, definition.workflow_id, still=still, parameters=parameters)
        found = await self.event(trigger.event_type, trigger.where, still=still)
        for run in found:
            if run.workflow_id == definition.workflow_id:
                return run
        raise NotRecordedError(f"{trigger.event_type} did not start {definition.workflow_id}")

    async def event(self, event_type: str, where: Mapping[str, Any], *, still: bool = True) -> list[Run]:
        """Record an event with the properties that it needs."""
        concrete = "sample.event" if event_type == "*" else event_type.replace("*", "sample")
        properties = {**properties_of(concrete, self.definition), **self.recording.properties, **where}
        return await self.runs.event(self.user_id, concrete, properties, still=still)

    async def finish(self, run: Run) -> StoredInstance:
        """The instance at its end, to which its clock skips."""
        with contextlib.suppress(RPCError):  # it has ended
            await self.runs.environment.fast_forward(run.handle)
        instance = await self.runs.ended(run)
        if instance.status is InstanceStatus.FAILED:
            error = instance.error or {}
            raise NotRecordedError(
                f"{run.workflow_id} failed at {error.get('failed_step') or 'no step'}: "
                f"{error.get('error_type')}: {error.get('error_message')}"
            )
        return instance

    async def waits(self, run: Run) -> bool:
        """Wait until the instance waits for time to pass; False if it has ended before."""
        while (await run.handle.describe()).close_time is None:
            types = [event.event_type for event in (await run.handle.fetch_history()).events]
            started, over = types.count(EventType.EVENT_TYPE_TIMER_STARTED), 0
            for each in (EventType.EVENT_TYPE_TIMER_FIRED, EventType.EVENT_TYPE_TIMER_CANCELED):
                over += types.count(each)
            if started > over:
                return True
            await asyncio.sleep(0.05)
        return False


_Play = Callable[[_Scene], Awaitable[Run | None]]


def _courses(recording: Recording) -> dict[str, _Play]:
    if recording.course is not None:
        return {recording.course.name: _with_event}
    return {"to_the_end": _to_the_end, "exited": _exited, "paused": _paused, "cancelled": _cancelled}


async def _to_the_end(scene: _Scene) -> Run:
    run = await scene.start(still=False)
    await scene.finish(run)
    return run


async def _exited(scene: _Scene) -> Run | None:
    """An event of the first exit without a condition ends it."""
    exits = [each for each in scene.definition.exits if each.condition is None]
    run = await scene.start(still=True)
    if not exits or not await scene.waits(run):
        await scene.finish(run)
        return None
    wanted = exits[0]
    await scene.event(wanted.event_type, wanted.where)
    instance = await scene.finish(run)
    if instance.reason != wanted.reason:
        raise NotRecordedError(
            f"{wanted.event_type} did not end {run.workflow_id}, which ended as {instance.reason}: "
            "give the event's properties"
        )
    return run


async def _paused(scene: _Scene) -> Run | None:
    run = await scene.start(still=True)
    if not await scene.waits(run):
        return None
    await run.handle.execute_update("pause")
    await run.handle.execute_update("resume")
    await scene.finish(run)
    return run


async def _cancelled(scene: _Scene) -> Run | None:
    run = await scene.start(still=True)
    if not await scene.waits(run):
        return None
    await run.handle.cancel()
    await scene.finish(run)
    return run


async def _with_event(scene: _Scene) -> Run:
    course = scene.recording.course
    assert course is not None
    run = await scene.start(still=True)
    await scene.runs.until(run, course.wait)
    await scene.event(course.event_type, {})
    await scene.finish(run)
    return run


@contextlib.asynccontextmanager
async def _stack() -> AsyncIterator[tuple[Runs, Customers]]:
    cipher = Cipher(RING)
    async with contextlib.AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(scratch_postgres())
        mail = await stack.enter_async_context(MailServer())
        settings = Settings(
            environment="embedded",
            database_url=postgres.runtime_url,
            migration_database_url=postgres.owner_url,
            smtp_url=mail.url,
            smtp_from="Perennial <hello@shop.example.com>",
        )
        await asyncio.to_thread(upgrade, settings)
        database = Database(postgres.runtime_url, size=4, application="record")
        await database.open()
        stack.push_async_callback(database.close)
        with silence():
            environment = await stack.enter_async_context(skipping_temporal(CODEC))
        await stack.enter_async_context(build_worker(environment.client, settings, database, cipher))
        yield Runs(environment, database, cipher, settings.task_queue), Customers(database, cipher)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Processes that are started meanwhile write nothing to the terminal."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, each in enumerate(kept, 1):
            os.dup2(each, number)
            os.close(each)
        os.close(nowhere)
