"""Encrypted payloads: each has its own key, and is bound to its workflow."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import ActivitySerializationContext, SerializationContext, WorkflowSerializationContext

from runtime.temporal import EncryptedPayloads

KEYS = {"a": bytes(32), "b": bytes(range(32))}
CODEC = EncryptedPayloads("a", KEYS)
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"Ada"')


def workflow(workflow_id: str, namespace: str = "default") -> SerializationContext:
    return WorkflowSerializationContext(namespace=namespace, workflow_id=workflow_id)


def activity(workflow_id: str | None, namespace: str = "default") -> SerializationContext:
    return ActivitySerializationContext(
        namespace=namespace,
        activity_id="1",
        activity_type="messages.send",
        activity_task_queue="perennial",
        workflow_id=workflow_id,
        workflow_type="onboarding",
        is_local=False,
    )


async def encrypted(context: SerializationContext | None = None, codec: EncryptedPayloads = CODEC) -> Payload:
    [payload] = await (codec.with_context(context) if context else codec).encode([PLAIN])
    assert b"Ada" not in payload.SerializeToString()
    return payload


async def test_the_workflow_and_its_activities_decrypt_each_others_payloads() -> None:
    for sender in (workflow("onboarding/i-1"), activity("onboarding/i-1")):
        payload = await encrypted(sender)
        for receiver in (workflow("onboarding/i-1"), activity("onboarding/i-1")):
            assert await CODEC.with_context(receiver).decode([payload]) == [PLAIN]


@pytest.mark.parametrize(
    "other",
    [
        workflow("onboarding/i-2"),
        activity("onboarding/i-2"),
        workflow("win_back/i-1"),
        workflow("onboarding/i-1", namespace="default-system"),
        workflow("onboarding/i-1-2"),
    ],
)
async def test_a_payload_of_another_workflow_is_refused(other: SerializationContext) -> None:
    payload = await encrypted(workflow("onboarding/i-1"))
    with pytest.raises(ValueError, match="belongs to another workflow"):
        await CODEC.with_context(other).decode([payload])


async def test_a_payload_that_is_bound_to_nothing_is_refused_for_a_workflow() -> None:
    payload = await encrypted()
    with pytest.raises(ValueError, match="belongs to another workflow"):
        await CODEC.with_context(workflow("onboarding/i-1")).decode([payload])
    assert await CODEC.decode([payload]) == [PLAIN]


async def test_a_codec_of_no_workflow_decrypts_all() -> None:
    """As `/codec/decode`, which gets payloads without their workflow."""
    payload = await encrypted(workflow("onboarding/i-1"))
    assert await CODEC.decode([payload]) == [PLAIN]
    assert await CODEC.with_context(activity(None)).decode([payload]) == [PLAIN]


@pytest.mark.parametrize(
    "changed",
    [
        {"encryption-bound-to": b"default/onboarding/i-2"},
        {"encryption-bound-to": b""},
        {"encryption-key-id": b"b"},
        {"encryption-key-id": b"\xff"},
        {"encryption-key-id": b""},
        {"encryption-cipher": b"AES-256-GCM"},
    ],
)
async def test_changed_metadata_makes_a_payload_unreadable(changed: dict[str, bytes]) -> None:
    payload = await encrypted(workflow("onboarding/i-1"))
    for name, value in changed.items():
        payload.metadata[name] = value
    for codec in (CODEC, CODEC.with_context(workflow("onboarding/i-2"))):
        with pytest.raises(ValueError, match=r"^(a|an encrypted) payload"):
            await codec.decode([payload])


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:40], lambda data: b"x" + data[1:]])
async def test_damaged_data_is_a_value_error(damage: Any) -> None:
    payload = await encrypted(workflow("onboarding/i-1"))
    payload.data = damage(payload.data)
    with pytest.raises(ValueError, match="can't be decrypted"):
        await CODEC.decode([payload])


async def test_runs_of_a_schedule_get_the_payloads_of_the_schedule_and_of_each_other() -> None:
    ids = ["system/retention", "system/retention-2026-11-30T00:00:00Z", "system/retention-2026-12-01T00:00:00Z"]
    for sender in ids:
        payload = await encrypted(workflow(sender, "default-system"))
        for receiver in ids:
            assert await CODEC.with_context(workflow(receiver, "default-system")).decode([payload]) == [PLAIN]


async def test_no_two_payloads_have_the_same_key_and_nonce() -> None:
    """The first 32 bytes, from which both are derived, are random."""
    salts = {(await encrypted()).data[:32] for _ in range(1000)}
    assert len(salts) == 1000
    assert len({byte for salt in salts for byte in salt}) == 256


async def test_an_older_payload_key_still_decrypts_after_a_rotation() -> None:
    payload = await encrypted(workflow("w"))
    rotated = EncryptedPayloads("b", KEYS)
    assert await rotated.with_context(workflow("w")).decode([payload]) == [PLAIN]
    assert (await encrypted(codec=rotated)).metadata["encryption-key-id"] == b"b"
