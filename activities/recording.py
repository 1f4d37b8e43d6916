"""The interceptor that records each step of a lifecycle workflow: attempts, results, the current step.

A step takes effect once. If the worker dies:

1. before :func:`store.instances.attempts.begin_attempt` commits: nothing has happened; the next attempt is the
   first.
2. after it, before or during the activity: the attempt has no end, and the next one marks it as interrupted. The
   activity itself is idempotent by (instance, step), see :mod:`activities.messages`.
3. after the activity, before :func:`store.instances.attempts.complete_attempt` commits: as 2.
4. after that commit, before Temporal has the result: Temporal retries, and point 1 finds the stored result.
5. after Temporal has it: the result is in history. After a reset to an earlier point the interceptor runs again,
   and reads the stored result as in 4.

An exit may have become due while the step waited for a replay, a retry or a resume, and its signal may be under
way. So the interceptor first looks into the log (ADR 0038). If an exit is due, the attempt doesn't begin, and the
workflow ends the instance. The look writes nothing, so a crash repeats it.

Each of the two commits is a single statement: one round trip instead of three.

Temporal's own count of attempts isn't used, since Postgres outages and killed workers raise it too. The pause
before a retry follows from the stored count as well (:mod:`activities.retries`).
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities import retries
from activities.instances import exit_due, instance_unknown
from activities.loops import heartbeats
from activities.retries import type_of
from models.errors import UserErasedError
from models.temporal.execution import StepContext, StepInput
from privacy.encryption import Cipher, DataKey
from runtime.database import UNREACHABLE, Database
from store.connection import Connection
from store.instances import attempts, waits

PAUSED_RETRY = timedelta(minutes=1)
"""While an instance is paused, a step's next attempt is tried again after this time, and doesn't count."""

RESULT_UNUSABLE = "ResultUnusable"
"""The error of a step whose activity returned something that isn't JSON."""


class StepRecorder(Interceptor):
    """Records activities whose argument is a :class:`StepInput`; others pass unrecorded."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's
        return _RecordStep(next, self._database, self._cipher)


class _RecordStep(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, database: Database, cipher: Cipher) -> None:  # noqa: A002 - the SDK's
        super().__init__(next)
        self._database = database
        self._cipher = cipher

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's
        message = input.args[0] if input.args else None
        if not isinstance(message, StepInput):
            return await self.next.execute_activity(input)
        try:
            return await self._step(message.step_context, input)
        except UNREACHABLE as error:
            # The step itself did not fail, so the retry skips the back-off of its failures.
            raise ApplicationError(
                "Postgres can't be reached", type="StoreUnavailableError", next_retry_delay=timedelta(seconds=1)
            ) from error

    async def _step(self, context: StepContext, call: ExecuteActivityInput) -> Any:
        begun, key = await self._begin(context)
        if begun.done:
            return key.decrypt_json("steps.result", begun.result, context.instance_id, context.step)
        try:
            async with heartbeats():
                result = await self.next.execute_activity(call)
        except asyncio.CancelledError:
            await self._fail(context, begun.number, key, "Cancelled", "The step was cancelled.", interrupted=True)
            raise
        except UNREACHABLE as error:
            await self._fail(context, begun.number, key, type(error).__name__, str(error), interrupted=True)
            raise
        except Exception as error:
            # Temporal's retry policy has no limit; the stored count of attempts decides.
            fails = begun.last or retries.is_permanent(error, context.non_retryable)
            pause = None if fails else retries.pause_after(error, begun.failures, activity.info().retry_policy)
            await self._fail(context, begun.number, key, type_of(error), _text_of(error), retry_in=pause)
            raise ApplicationError(
                _text_of(error), type=type_of(error), non_retryable=fails, next_retry_delay=pause
            ) from error
        try:
            await self._complete(context, begun.number, key, result)
        except (TypeError, ValueError):  # a retry would repeat the effect, and fail in the same way
            text = "the activity's result can't be stored as JSON"
            await self._fail(context, begun.number, key, RESULT_UNUSABLE, text)
            raise ApplicationError(text, type=RESULT_UNUSABLE, non_retryable=True) from None
        return result

    async def _begin(self, context: StepContext) -> tuple[attempts.BegunAttempt, DataKey]:
        run_id = activity.info().workflow_run_id or ""
        async with self._database.connection() as connection:
            try:
                begun, key = await attempts.begin_attempt(connection, self._cipher, context, run_id)
                if begun.paused is not None:
                    await self._look(connection, context, key, paused=begun.paused)
                    begun, key = await attempts.begin_attempt(
                        connection, self._cipher, context, run_id, looked=True
                    )
            except UserErasedError as error:
                raise ApplicationError(error.detail, type="UserErasedError", non_retryable=True) from error
        # A workflow task that Temporal repeats after the end was recorded comes here too; a done step stays done.
        if not begun.known and not begun.done:
            raise instance_unknown()
        return begun, key

    async def _look(self, connection: Connection, context: StepContext, key: DataKey, *, paused: bool) -> None:
        """Raise an error that ends or delays the step if an exit is due or the instance is paused."""
        if await waits.exit_is_due(connection, key, context.instance_id, context.user_id):
            raise exit_due()
        if paused:
            raise ApplicationError(
                "the instance is paused", type="InstancePausedError", next_retry_delay=PAUSED_RETRY
            )

    async def _complete(self, context: StepContext, attempt: int, key: DataKey, result: Any) -> None:
        document = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
        async with self._database.connection() as connection:
            await attempts.complete_attempt(connection, context, attempt, key, document)

    async def _fail(
        self,
        context: StepContext,
        attempt: int,
        key: DataKey,
        error_type: str,
        error_message: str,
        *,
        interrupted: bool = False,
        retry_in: timedelta | None = None,
    ) -> None:
        """While Postgres is unavailable the attempt stays without an end, which counts as interrupted too."""
        with contextlib.suppress(*UNREACHABLE):
            async with self._database.connection() as connection:
                await attempts.fail_attempt(
                    connection,
                    context,
                    attempt,
                    key,
                    error_type=error_type,
                    error_message=error_message,
                    interrupted=interrupted,
                    retry_in=retry_in,
                )


def _text_of(error: Exception) -> str:
    return error.message if isinstance(error, ApplicationError) else str(error) or type(error).__name__
