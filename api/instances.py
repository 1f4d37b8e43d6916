"""Reads and commands instances. Their state is the row in Postgres, corrected by Temporal's status."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode

from api.resources import TEMPORAL_DOWN, Resources
from checks.workers import Workers
from delivery.temporal import RunUnknownError, describe, handle_of, tasks_fail
from models.errors import (
    AlreadyFinishedError,
    InstanceNotFoundError,
    TemporalUnavailableError,
    WorkerUnavailableError,
)
from models.instances import Problem, StoredInstance
from models.schemas.workflows import InstanceView
from models.temporal.ending import ENDED_AS, history_lost, never_started
from models.temporal.identity import STATUS, STEP
from models.vocabulary import InstanceStatus, ProblemKind, Role
from privacy import instance_views
from privacy.encryption import Cipher
from privacy.instance_views import UiLinks
from privacy.masking import schema_choices
from runtime.database import Database
from runtime.settings import Settings
from runtime.temporal import RPC_TIMEOUT
from store import outbox
from store.instances import instances
from workflows.catalog import catalog

READ_TIMEOUT = timedelta(seconds=2)
"""How long a read waits for Temporal before it answers from Postgres alone."""
NOT_STARTED_AFTER = timedelta(seconds=30)
"""For this long after its start, an instance that Temporal doesn't know counts as starting."""
RETRY_SECONDS = 0.05
"""Delay before retrying a command that Temporal rejected for now."""


@dataclass(frozen=True)
class InstanceState:
    """The state of an instance. ``stale``: it is the row alone, since Temporal didn't answer."""

    stored: StoredInstance
    stale: bool = False


class Instances:
    """Reads and commands instances. ``client`` is None if no Temporal is configured."""

    def __init__(
        self, database: Database, cipher: Cipher, client: Client | None, workers: Workers | None = None
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._configured_client = client
        self._workers = workers

    @classmethod
    def of(cls, resources: Resources) -> Instances:
        return cls(resources.database, resources.cipher, resources.temporal, resources.workers)

    async def get(self, workflow_id: str, instance_id: str, *, damaged: bool = False) -> InstanceState:
        """Raises :class:`InstanceNotFoundError`. ``damaged``: see :func:`store.instances.instances.find`."""
        stored = await self._stored(workflow_id, instance_id, damaged=damaged)
        if stored.end_time is not None:
            return InstanceState(stored)
        try:
            described = await describe(self._client, workflow_id, instance_id, timeout=READ_TIMEOUT)
        except RunUnknownError:
            return InstanceState(_unknown_to_temporal(stored))
        except TEMPORAL_DOWN:
            return InstanceState(stored, stale=True)
        if described.status in ENDED_AS:
            # The end is recorded just before Temporal closes the run, maybe after the first read of the row.
            stored = await self._stored(workflow_id, instance_id, damaged=damaged)
        silent_since = await self._workers.silent_since() if self._workers else None
        return InstanceState(_with_problem(_corrected(stored, described), described, silent_since))

    async def finished_within(
        self, workflow_id: str, instance_id: str, seconds: float, stopping: asyncio.Event
    ) -> InstanceState | None:
        """The finished instance; None after ``seconds``, or when the process stops."""
        ended = asyncio.create_task(handle_of(self._client, workflow_id, instance_id).result())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((ended, stopped), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, stopped):
            task.cancel()
        # A failed run raises here; the row has its end.
        results = await asyncio.gather(ended, stopped, return_exceptions=True)
        if isinstance(results[0], asyncio.CancelledError | RPCError):
            return None
        state = await self.get(workflow_id, instance_id)
        return state if state.stored.status.finished else None

    async def cancel(self, workflow_id: str, instance_id: str) -> InstanceState:
        """Request the cancellation of an instance: its clean-up runs, and it ends as cancelled.

        Raises :class:`InstanceNotFoundError`, :class:`AlreadyFinishedError` or :class:`TemporalUnavailableError`.
        """
        stored = await self._unfinished(workflow_id, instance_id)
        try:
            if await self._has_current_run(stored):
                await handle_of(self._client, workflow_id, instance_id).cancel(rpc_timeout=RPC_TIMEOUT)
            else:
                async with self._database.transaction() as connection:
                    instance = (workflow_id, instance_id, stored.user_id)
                    await outbox.write_cancellations(connection, [instance], outbox.CANCEL_REQUESTED)
        except (RunUnknownError, *TEMPORAL_DOWN) as error:
            raise _command_error(error) from error
        return await self.get(workflow_id, instance_id, damaged=True)

    async def command(self, workflow_id: str, instance_id: str, update: str) -> InstanceState:
        """Send an update (``pause``, ``resume``), and wait until the workflow has executed it.

        Raises the errors of :meth:`cancel`, and :class:`WorkerUnavailableError`.
        """
        try:
            async with asyncio.timeout(RPC_TIMEOUT.total_seconds()):
                await self._update(workflow_id, instance_id, update)
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            raise WorkerUnavailableError from error
        except WorkflowUpdateFailedError as error:
            raise AlreadyFinishedError from error
        except (RunUnknownError, *TEMPORAL_DOWN) as error:
            raise _command_error(error) from error
        return await self.get(workflow_id, instance_id, damaged=True)

    async def _update(self, workflow_id: str, instance_id: str, update: str) -> None:
        """Send an update to the current run; wait for a run that hasn't reached Temporal yet."""
        # The same id for all retries, so that the workflow executes the update once.
        update_id = uuid.uuid4().hex
        while True:
            stored = await self._unfinished(workflow_id, instance_id)
            try:
                if await self._has_current_run(stored):
                    handle = handle_of(self._client, workflow_id, instance_id)
                    await handle.execute_update(update, id=update_id)
                    return
            except RPCError as error:
                # Temporal is repeating a workflow task, for instance after a cancellation at the instance's end.
                # The retry succeeds, or finds the end.
                if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    async def _has_current_run(self, stored: StoredInstance) -> bool:
        """Whether Temporal has an open run; False while a start or a replay hasn't reached Temporal yet.

        Raises :class:`AlreadyFinishedError` if the current run has closed, and :class:`RunUnknownError`.
        """
        try:
            # Temporal accepts the cancellation of a closed run without an error, so the status comes first.
            described = await describe(self._client, stored.workflow_id, stored.instance_id)
        except RunUnknownError:
            if _may_be_starting(stored):
                return False
            raise
        if described.status not in ENDED_AS:
            return True
        if described.run_id in stored.replaced_runs:
            return False
        raise AlreadyFinishedError

    async def _stored(self, workflow_id: str, instance_id: str, *, damaged: bool = False) -> StoredInstance:
        async with self._database.connection() as connection:
            found = await instances.find(connection, self._cipher, instance_id, damaged=damaged)
        if found is None or found.workflow_id != workflow_id:
            raise InstanceNotFoundError
        return found

    async def _unfinished(self, workflow_id: str, instance_id: str) -> StoredInstance:
        stored = await self._stored(workflow_id, instance_id, damaged=True)
        if stored.end_time is not None:
            raise AlreadyFinishedError
        return stored

    @property
    def _client(self) -> Client:
        if self._configured_client is None:
            raise TemporalUnavailableError
        return self._configured_client


def _corrected(stored: StoredInstance, described: WorkflowExecutionDescription) -> StoredInstance:
    """The row, with Temporal's status, step and run."""
    if stored.end_time is not None:
        return stored
    if described.run_id in stored.replaced_runs:  # a replay hasn't reached Temporal yet
        return stored
    closed = ENDED_AS.get(described.status) if described.status is not None else None
    if closed is not None:
        return replace(stored, status=closed, end_time=described.close_time, run_id=described.run_id)
    paused = described.typed_search_attributes.get(STATUS) == InstanceStatus.PAUSED.value
    return replace(
        stored,
        status=InstanceStatus.PAUSED if paused else InstanceStatus.RUNNING,
        current_step=described.typed_search_attributes.get(STEP) or stored.current_step,
        run_id=described.run_id,
    )


def _with_problem(
    stored: StoredInstance, described: WorkflowExecutionDescription, silent_since: datetime | None
) -> StoredInstance:
    """The instance with the problem that it has now, which the reconciler may not have stored yet."""
    if stored.status.finished:
        return stored
    problem = stored.problem
    if tasks_fail(described):
        if problem is None or problem.kind is not ProblemKind.INCOMPATIBLE_DEPLOY:
            problem = Problem(ProblemKind.INCOMPATIBLE_DEPLOY, datetime.now(UTC))
    elif problem is not None and problem.kind is ProblemKind.INCOMPATIBLE_DEPLOY:
        problem = None
    return unserved(replace(stored, problem=problem), silent_since)


def unserved(stored: StoredInstance, silent_since: datetime | None) -> StoredInstance:
    """The instance with the problem `no_worker`, if no worker runs and it has no other problem."""
    if silent_since is None or stored.status.finished or stored.problem is not None:
        return stored
    return replace(stored, problem=Problem(ProblemKind.NO_WORKER, silent_since))


def _may_be_starting(stored: StoredInstance) -> bool:
    """Whether Temporal may not know the instance yet, because a start or a replay is under way."""
    if stored.run_id in stored.replaced_runs:
        return True
    if stored.bulk_id is not None:
        return stored.run_id is None  # the outbox has it, and the reconciler ends what the outbox has lost
    return stored.run_id is None and datetime.now(UTC) - stored.start_time < NOT_STARTED_AFTER


def _unknown_to_temporal(stored: StoredInstance) -> StoredInstance:
    """An unfinished instance without a run in Temporal: starting, or failed."""
    if _may_be_starting(stored):
        return stored
    if stored.run_id is None:
        return replace(stored, status=InstanceStatus.FAILED, error=never_started().model_dump())
    problem = Problem(ProblemKind.HISTORY_LOST, datetime.now(UTC))
    return replace(stored, status=InstanceStatus.FAILED, error=history_lost().model_dump(), problem=problem)


def _command_error(error: Exception) -> AlreadyFinishedError | TemporalUnavailableError:
    """Temporal answers NOT_FOUND to a command for a closed run."""
    closed = isinstance(error, RunUnknownError) or (
        isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND
    )
    return AlreadyFinishedError() if closed else TemporalUnavailableError()


@cache
def known_words(workflow_id: str) -> frozenset[str]:
    """The choices in the workflow's parameter schema, which are not masked."""
    definition = catalog().get(workflow_id)
    return schema_choices(definition.parameter_schema) if definition else frozenset()


def instance_view(role: Role, state: InstanceState, settings: Settings) -> InstanceView:
    """An instance as a role sees it."""
    links = UiLinks(settings.temporal_ui_url, settings.temporal_namespace)
    known = known_words(state.stored.workflow_id)
    definition = catalog().get(state.stored.workflow_id)
    key = definition.key if definition else ()
    return instance_views.instance_view(role, state.stored, links, known, key, stale=state.stale)


def location(workflow_id: str, instance_id: str) -> str:
    return f"/workflows/{workflow_id}/instances/{instance_id}"
