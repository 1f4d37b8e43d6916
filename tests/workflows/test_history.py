"""What Temporal keeps of an instance, and replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import _Definition

from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import EncryptedPayloads, data_converter
from tests.support.people import Customer
from tests.support.recorded import CODEC, HISTORIES
from tests.support.runs import Runs
from worker import workflow_runner
from workflows.catalog import catalog
from workflows.interceptors import OutcomeInterceptor
from workflows.system.registry import SYSTEM_WORKFLOWS


async def test_history_holds_nothing_personal_and_a_summary_that_a_person_reads(
    runs: Runs, customer: Customer
) -> None:
    run = await runs.start(customer.user_id)
    await run.handle.result()
    history = await run.handle.fetch_history()
    raw = b"".join(event.SerializeToString() for event in history.events)
    for secret in (customer.email, customer.name, "no_activity", "P3D"):
        assert secret.encode() not in raw
    assert b"send_welcome" in raw


def payloads(message: Any) -> Iterator[Payload]:
    """All payloads in a message, however deep."""
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            parts = [each for each in value.values() if hasattr(each, "ListFields")]
        else:
            parts = value if field.is_repeated else [value]
        for part in parts:
            yield from payloads(part)


async def test_nobody_learns_from_history_where_a_customer_lives_or_is_written_to(
    runs: Runs, database: Database, cipher: Cipher, codec: EncryptedPayloads
) -> None:
    """Decoded, as an admin sees it: ids and moments, no zone, no address, no name."""
    customer = await Customer.new(database, cipher, Purpose.MARKETING, timezone="Asia/Kathmandu")
    run = await runs.start(customer.user_id, "win_back")
    await run.handle.result()
    history = await run.handle.fetch_history()
    found = [each for event in history.events for each in payloads(event)]
    encrypted = [each for each in found if each.metadata["encoding"] == b"binary/encrypted"]
    assert len(encrypted) >= 10
    decoded = b"".join(each.data for each in await codec.decode(encrypted))
    assert customer.user_id.encode() in decoded
    for secret in ("Kathmandu", customer.email, customer.name):
        assert secret.encode() not in decoded


def strict_runner() -> SandboxedWorkflowRunner:
    """The workers' sandbox, which also refuses what a worker would let pass in silence: a module that is imported
    while a workflow runs, or that is shared between runs although nobody said so."""
    policy = (
        workflow.SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
        | workflow.SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
    )
    return SandboxedWorkflowRunner(
        restrictions=workflow_runner().restrictions.with_import_notification_policy(policy)
    )


@pytest.mark.parametrize("recorded", sorted(HISTORIES.glob("*.json")), ids=lambda path: path.stem)
async def test_a_committed_history_replays(recorded: Path) -> None:
    """A change to a workflow that breaks running instances breaks this: patch it, or keep it as it was."""
    replayer = Replayer(
        workflows=[*(definition.implementation for definition in catalog().values()), *SYSTEM_WORKFLOWS],
        workflow_runner=strict_runner(),
        data_converter=data_converter(CODEC),
        interceptors=[OutcomeInterceptor()],
    )
    workflow_id = recorded.stem.split("-")[0] + "/recorded"
    await replayer.replay_workflow(WorkflowHistory.from_json(workflow_id, recorded.read_text()))


def test_every_workflow_has_a_committed_history() -> None:
    recorded = {path.stem.split("-")[0] for path in HISTORIES.glob("*.json")}
    assert recorded == {*catalog(), *(_Definition.must_from_class(each).name for each in SYSTEM_WORKFLOWS)}
