"""A failing workflow writes no personal data to logs, traces or history."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from runtime.telemetry import ScrubbingSpanExporter
from tests.support.logs import logged

CANARY = "kanarie@example.com"
SOON = timedelta(seconds=10)


@activity.defn
async def fail(text: str) -> None:
    activity.logger.warning(f"going to write to {text}")
    try:
        raise LookupError(text)
    except LookupError as error:
        raise ApplicationError(f"no such person: {text}", {"who": text}, non_retryable=True) from error


@workflow.defn
class Failing:
    @workflow.run
    async def run(self, text: str) -> None:
        workflow.logger.warning("started for " + text)
        await workflow.execute_activity(fail, text, start_to_close_timeout=SOON)


async def test_a_failing_workflow_writes_nothing_of_its_person(temporal: Client) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ScrubbingSpanExporter(exporter)))
    tracing = TracingInterceptor(provider.get_tracer("test"))
    config = temporal.config()
    config["interceptors"] = [tracing]
    client = Client(**config)
    with logged() as lines:
        async with Worker(
            client,
            task_queue="failing",
            workflows=[Failing],
            activities=[fail],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            handle = await client.start_workflow(Failing.run, CANARY, id="failing", task_queue="failing")
            with pytest.raises(WorkflowFailureError):
                await handle.result()
    written = json.dumps(lines())
    assert "Completing activity as failed" in written
    assert "kanarie" not in written
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert any("ApplicationError" in span for span in spans)
    assert "kanarie" not in str(spans)
    assert "kanarie" not in (await handle.fetch_history()).to_json()
