"""Retries for a day: their pauses, their number for each step, and errors that no retry mends."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities import retries
from activities.http import HttpRequests
from activities.recording import StepRecorder
from activities.retries import HTTP_STATUS
from models.instances import NewInstance, StoredInstance
from models.temporal.execution import CleanUp, HttpRequest, StepContext
from models.vocabulary import InstanceStatus, Role
from privacy.encryption import Cipher
from privacy.instance_views import UiLinks, instance_view
from runtime.database import Database
from runtime.settings import Service
from store.instances import attempts, bulks, starting, transitions
from store.instances.bulks import BulkRequest
from store.instances.starting import StartRequest
from store.users import data_keys
from testing.hooks import HookServer
from testing.people import Customer
from testing.runs import Run
from tests.dead_letters.conftest import Stage
from tests.dead_letters.journeys import Patient
from workflows.catalog import DEFAULT_MAX_ATTEMPTS
from workflows.policies import OUTSIDE, StepPolicy

DAY = timedelta(days=1)
AT_ONCE = 20.0
"""Seconds; far less than the hour of the pause, and than the minute that an exit gives an attempt."""


async def _backing_off(stage: Stage, customer: Customer) -> Run:
    """An instance whose step is tried again in an hour."""
    stage.effects.failing = {"hourly"}
    run = await stage.runs.start(customer.user_id, "patient", max_attempts=100, still=True)
    await stage.runs.until_tried(run, "hourly", 1)
    return run


def _view(stored: StoredInstance) -> dict[str, Any]:
    return instance_view(Role.OPERATOR, stored, UiLinks(None, "default"), ()).model_dump(mode="json")


async def test_an_instance_shows_the_step_that_will_be_tried_again(served: Stage, customer: Customer) -> None:
    run = await _backing_off(served, customer)
    shown = _view(await served.runs.context(run))
    next_attempt_at = datetime.fromisoformat(shown["retrying"].pop("next_attempt_at"))
    assert shown["retrying"] == {"step": "hourly", "attempt": 1, "error_type": "ValueError"}
    assert timedelta(minutes=50) < next_attempt_at - datetime.now(UTC) < timedelta(hours=1)
    served.effects.failing = set()
    await served.runs.environment.fast_forward(run.handle, timedelta(hours=1))
    await run.handle.result()
    assert _view(await served.runs.context(run))["retrying"] is None


async def test_an_exit_ends_a_step_that_waits_for_its_next_attempt_at_once(
    served: Stage, customer: Customer
) -> None:
    run = await _backing_off(served, customer)
    await served.runs.notify(run, "shop.leave")
    async with asyncio.timeout(AT_ONCE):
        assert (await run.handle.result()).reason == "shop.leave"
    assert _view(await served.runs.context(run))["retrying"] is None
    await served.runs.replay(run)


async def test_a_pause_and_a_cancellation_need_not_wait_for_the_next_attempt(
    served: Stage, customer: Customer
) -> None:
    run = await _backing_off(served, customer)
    async with asyncio.timeout(AT_ONCE):
        await run.handle.execute_update("pause")
        assert (await served.runs.context(run)).status is InstanceStatus.PAUSED
        await run.handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await run.handle.result()
    assert (await served.runs.context(run)).status is InstanceStatus.CANCELLED


async def _failed_attempts(stage: Stage, run: Run) -> list[int]:
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    return [each.attempt for each in (await stage.runs.context(run)).attempts]


async def test_a_step_s_own_number_of_attempts_replaces_that_of_the_workflow(
    served: Stage, customer: Customer
) -> None:
    served.effects.failing = {"twice"}
    run = await served.runs.start(customer.user_id, "patient", max_attempts=30, still=True)
    assert await _failed_attempts(served, run) == [1, 2]


@pytest.mark.parametrize(("asked", "attempts"), [(None, [1, 2]), (1, [1]), (7, [1, 2])])
async def test_a_request_s_number_limits_every_step(
    served: Stage, customer: Customer, asked: int | None, attempts: list[int]
) -> None:
    served.effects.failing = {"twice"}
    request = StartRequest(uuid.uuid4().hex, customer.user_id, "test", {}, max_attempts=asked)
    async with served.runs.database.transaction() as connection:
        stored = await starting.start(connection, served.runs.cipher, Patient.definition.startable, request)
    assert stored.new.max_attempts == (asked or DEFAULT_MAX_ATTEMPTS)
    run = await served.runs.begin(stored.new, still=True)
    assert await _failed_attempts(served, run) == attempts


@pytest.mark.parametrize(("asked", "limits"), [(None, False), (7, True)])
async def test_the_workflow_s_own_number_limits_no_step_of_a_bulk_either(
    database: Database, cipher: Cipher, customer: Customer, asked: int | None, limits: bool
) -> None:
    workflow = Patient.definition.startable
    bulk = BulkRequest("b-1", [customer.user_id], "test", {}, asked, timedelta())
    async with database.transaction() as connection:
        started = (await bulks.start(connection, cipher, workflow, bulk))[customer.user_id]
        assert isinstance(started, str)
        begun = await attempts.begin_start(connection, started)
        assert begun is not None
        request = await bulks.request_of(connection, cipher, workflow, customer.user_id, started, begun)
        new = (await starting.start(connection, cipher, workflow, request)).new
    assert (new.max_attempts, new.limits_attempts) == (asked or DEFAULT_MAX_ATTEMPTS, limits)


async def test_a_declared_error_fails_the_step_at_once(served: Stage, customer: Customer) -> None:
    """Its base class is declared."""
    served.effects.missing = {"twice"}
    run = await served.runs.start(customer.user_id, "patient", max_attempts=30, still=True)
    assert await _failed_attempts(served, run) == [1]
    assert (await served.dead_letter(run)).error_type == "KeyError"


@pytest.mark.parametrize(
    ("status", "permanent"), [(400, True), (404, True), (408, False), (425, False), (429, False), (503, False)]
)
def test_an_http_refusal_is_permanent(status: int, permanent: bool) -> None:
    response = httpx.Response(status, request=httpx.Request("POST", "https://billing.example.com"))
    with pytest.raises(httpx.HTTPStatusError) as raised:
        response.raise_for_status()
    assert retries.is_permanent(raised.value, []) is permanent


def test_a_step_is_tried_for_about_a_day_and_an_hour_apart_at_most() -> None:
    found = [retries.pause_after(ValueError(), failures, OUTSIDE.retry) for failures in range(1, 100)]
    pauses = [each for each in found if each is not None]
    assert len(pauses) == len(found)
    assert timedelta(seconds=1.8) <= pauses[0] <= timedelta(seconds=2)
    assert max(pauses) <= timedelta(hours=1)
    assert DAY * 0.8 < sum(pauses[: DEFAULT_MAX_ATTEMPTS - 1], timedelta()) < DAY


def test_an_activity_may_set_the_pause_itself() -> None:
    error = ApplicationError("busy", next_retry_delay=timedelta(minutes=3))
    assert retries.pause_after(error, 1, OUTSIDE.retry) == timedelta(minutes=3)


class _Behaves(ActivityInboundInterceptor):
    """An activity that raises an error, or returns another result."""

    def __init__(self, result: Any) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._result = result

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


async def _failure_after_an_outage(
    database: Database, cipher: Cipher, customer: Customer, result: Any
) -> ApplicationError:
    """The error of a step's first attempt. Temporal has counted each second without Postgres as an attempt."""
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        await transitions.insert(connection, key, NewInstance("i-1", "patient", customer.user_id, 3, {}, "test"))
    environment = ActivityEnvironment()
    environment.info = replace(
        environment.info, attempt=600, retry_policy=OUTSIDE.retry, heartbeat_timeout=OUTSIDE.heartbeat_timeout
    )
    context = StepContext(
        workflow_id="patient", instance_id="i-1", user_id=customer.user_id, step="s", position=1, max_attempts=3
    )

    async def call() -> Any:
        step = ExecuteActivityInput(fn=call, args=[CleanUp(context=context)], executor=None, headers={})
        return await StepRecorder(database, cipher).intercept_activity(_Behaves(result)).execute_activity(step)

    with pytest.raises(ApplicationError) as raised:
        await environment.run(call)
    return raised.value


async def test_the_pause_after_an_outage_of_postgres_is_that_of_the_step_s_first_failure(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    error = await _failure_after_an_outage(database, cipher, customer, ValueError("it doesn't work"))
    assert error.next_retry_delay is not None
    assert error.next_retry_delay <= timedelta(seconds=2)


async def test_after_an_outage_of_postgres_a_service_still_gets_the_pause_that_it_asks_for(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    context = StepContext(
        workflow_id="caller", instance_id="i-1", user_id=customer.user_id, step="s", position=1, max_attempts=3
    )
    request = HttpRequest(method="POST", base="billing_url", path="/", context=context)
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, attempt=600, retry_policy=OUTSIDE.retry)
    async with HookServer() as service:
        service.answers = ["503 Service Unavailable\r\nretry-after: 600"]
        requests = HttpRequests({"billing_url": Service(service.url, None)})
        with pytest.raises(ApplicationError) as raised:
            await environment.run(requests.request, request)
    error = await _failure_after_an_outage(database, cipher, customer, raised.value)
    assert error.next_retry_delay == timedelta(minutes=10)


def test_a_service_that_asks_for_less_than_the_policy_s_pause_does_not_shorten_it() -> None:
    error = ApplicationError("busy", type=HTTP_STATUS, next_retry_delay=timedelta(seconds=1))
    pause = retries.pause_after(error, 20, OUTSIDE.retry)
    assert pause is not None
    assert pause > timedelta(minutes=50)


@pytest.mark.parametrize("result", [{"total": Decimal(1)}, {"number": 2**70}])
async def test_a_result_that_can_not_be_stored_fails_the_step_and_does_not_repeat_its_effect(
    database: Database, cipher: Cipher, customer: Customer, result: Any
) -> None:
    error = await _failure_after_an_outage(database, cipher, customer, result)
    assert (error.type, error.non_retryable) == ("ResultUnusable", True)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT error_type FROM attempts") == "ResultUnusable"


@pytest.mark.parametrize(
    ("options", "text"),
    [({"max_attempts": 0}, "1 to 100"), ({"retry": RetryPolicy(maximum_attempts=3)}, "counts outages too")],
)
def test_an_unsuitable_policy_is_rejected(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        StepPolicy(**options)
