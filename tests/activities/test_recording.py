"""The recording of steps: a stored result is read back, and its step has no second effect."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.recording import StepRecorder
from models.instances import NewInstance
from models.temporal.execution import CleanUp, StepContext
from models.temporal.identity import temporal_workflow_id
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import attempts, transitions
from store.users import data_keys
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Run, Runs


async def _reset_to_the_beginning(runs: Runs, run: Run) -> str:
    """Reset the instance to its first workflow task, as a replay of a dead letter does."""
    history = await run.handle.fetch_history()
    first = next(
        event.event_id
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    )
    client = runs.environment.client
    answer = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(
                workflow_id=temporal_workflow_id(run.workflow_id, run.instance_id)
            ),
            workflow_task_finish_event_id=first,
            request_id=uuid.uuid4().hex,
            reason="test",
        )
    )
    return answer.run_id


async def test_a_reset_runs_no_completed_step_again(runs: Runs, customer: Customer, mail: MailServer) -> None:
    run = await runs.start(customer.user_id, still=True)
    before = await runs.until(run, "wait_for_first_activity")
    new_run_id = await _reset_to_the_beginning(runs, run)
    assert new_run_id != before.run_id

    await mail.after(lambda: len(mail.to(customer.email)) >= 1)
    handle = runs.environment.client.get_workflow_handle(
        temporal_workflow_id(run.workflow_id, run.instance_id), run_id=new_run_id
    )
    again = await runs.until_run(run, new_run_id)
    assert again.current_step == "wait_for_first_activity"
    assert again.results["send_welcome"] == before.results["send_welcome"]
    assert len(again.attempts) == len(before.attempts) == 1
    assert len(mail.to(customer.email)) == 1
    await handle.terminate()


async def test_stored_steps_and_messages_are_encrypted(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id)
    await run.handle.result()
    async with runs.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT m.recipient, m.subject, m.body, s.result, i.variables, i.parameters FROM messages m "
            "JOIN steps s USING (instance_id) JOIN instances i USING (instance_id)"
        )
    assert rows
    for row in rows:
        for encrypted in row.values():
            assert isinstance(encrypted, bytes)
            for secret in (customer.email, customer.name, "nudged", "timed_out"):
                assert secret.encode() not in encrypted


class _NeverRuns(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's
        raise AssertionError("the step ran again")


@pytest.mark.parametrize("ended", [False, True])
async def test_a_done_step_gives_its_result_also_after_the_instance_has_ended(
    database: Database, cipher: Cipher, customer: Customer, ended: bool
) -> None:
    """Temporal may repeat the workflow task that has recorded the end."""
    contexts = [
        StepContext(
            workflow_id="onboarding",
            instance_id="i-1",
            user_id=customer.user_id,
            step=step,
            position=position,
            max_attempts=3,
        )
        for position, step in enumerate(("done", "never_begun"), 1)
    ]
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        await transitions.insert(
            connection, key, NewInstance("i-1", "onboarding", customer.user_id, 3, {}, "test")
        )
        begun, key = await attempts.begin_attempt(connection, cipher, contexts[0], "run-1")
        await attempts.complete_attempt(connection, contexts[0], begun.number, key, {"messages_withdrawn": 7})
        if ended:
            await connection.execute("UPDATE instances SET status = 'cancelled', end_time = now()")

    async def call(context: StepContext) -> Any:
        step = ExecuteActivityInput(fn=call, args=[CleanUp(context=context)], executor=None, headers={})
        recorder = StepRecorder(database, cipher)
        return await recorder.intercept_activity(_NeverRuns(None)).execute_activity(step)  # type: ignore[arg-type]

    assert await ActivityEnvironment().run(call, contexts[0]) == {"messages_withdrawn": 7}
    with pytest.raises(ApplicationError, match="has ended" if ended else "the step ran again"):
        await ActivityEnvironment().run(call, contexts[1])
