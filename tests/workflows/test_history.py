"""Histories: what they hold, and that they replay."""

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

from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import EncryptedPayloads, data_converter
from testing.histories import CODEC, HISTORIES, system_workflows, unrecorded, workflow_of
from testing.people import Customer
from testing.runs import Runs
from tests.support.processes import ROOT
from workflows.catalog import catalog
from workflows.sandbox import workflow_runner

RECORDED = ROOT / HISTORIES


async def test_history_has_no_personal_data_and_a_readable_summary(runs: Runs, customer: Customer) -> None:
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


async def test_history_has_neither_time_zone_nor_address_of_a_customer(
    runs: Runs, database: Database, cipher: Cipher, codec: EncryptedPayloads
) -> None:
    """Decoded, as an admin sees it: ids and times, no zone, no address, no name."""
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


async def test_every_encrypted_payload_of_a_history_is_bound_to_its_workflow(
    runs: Runs, customer: Customer
) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    await runs.notify(run, "engagement.page_view")
    await run.handle.result()
    history = await run.handle.fetch_history()
    found = [each for event in history.events for each in payloads(event)]
    encrypted = [each for each in found if each.metadata["encoding"] == b"binary/encrypted"]
    assert len(encrypted) >= 5
    assert {each.metadata["encryption-bound-to"] for each in encrypted} == {f"default/{run.handle.id}".encode()}


async def test_a_payload_of_another_instances_history_is_not_accepted(runs: Runs, customer: Customer) -> None:
    """Also one of the same person, workflow and step."""
    first, second = [await runs.start(customer.user_id) for _ in range(2)]
    for run in (first, second):
        await run.handle.result()
        await runs.replay(run)
    other = await second.handle.fetch_history()
    mixed = await first.handle.fetch_history()
    mixed.events[0].workflow_execution_started_event_attributes.input.CopyFrom(
        other.events[0].workflow_execution_started_event_attributes.input
    )
    with pytest.raises(RuntimeError, match="ValueError"):  # its text is encrypted
        await runs.replay_history(first.workflow_id, mixed)


def strict_runner() -> SandboxedWorkflowRunner:
    """The workers' sandbox, which also rejects modules that a worker would accept: imported while a workflow runs,
    or shared between runs without being listed."""
    policy = (
        workflow.SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
        | workflow.SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
    )
    return SandboxedWorkflowRunner(
        restrictions=workflow_runner().restrictions.with_import_notification_policy(policy)
    )


@pytest.mark.parametrize("recorded", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
async def test_a_committed_history_replays(recorded: Path) -> None:
    """Fails after a change that breaks running instances: patch the change (docs/changing-a-workflow.md)."""
    replayer = Replayer(
        workflows=[
            *(definition.implementation for definition in catalog().values()),
            *system_workflows().values(),
        ],
        workflow_runner=strict_runner(),
        data_converter=data_converter(CODEC),
    )
    workflow_id = workflow_of(recorded) + "/recorded"
    await replayer.replay_workflow(WorkflowHistory.from_json(workflow_id, recorded.read_text()))


def test_every_workflow_has_a_committed_history() -> None:
    missing = unrecorded(RECORDED)
    assert not missing, f"record the history of {missing[0]}: .venv/bin/perennial record-history {missing[0]}"


def test_every_committed_history_is_of_a_workflow() -> None:
    names = {workflow_of(file) for file in RECORDED.glob("*.json")}
    assert names <= {*catalog(), *system_workflows()}
