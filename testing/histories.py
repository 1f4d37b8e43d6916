"""Committed histories: a change of a workflow must replay them, since running instances have histories like them.

They are encrypted with a public key, because they hold no real data. `perennial record-history` writes them
(:mod:`testing.recording`), and `tests/workflows/test_history.py` replays them.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowHistory
from temporalio.converter import SerializationContext
from temporalio.workflow import _Definition

from models.temporal.system import Queue
from privacy.keyring import KeyRing, KeySet
from runtime.temporal import EncryptedPayloads
from workflows.catalog import catalog
from workflows.system.jobs import workflows_of

HISTORIES = Path("tests", "workflows", "histories")
"""Their directory in the checkout. A file is named after the workflow and the course that it took."""
_KNOWN = KeySet("known", {"known": bytes(range(32))})
RING = KeyRing(kek=_KNOWN, payload=_KNOWN, blind_index=bytes(32))


class RecordedPayloads(EncryptedPayloads):
    """Decrypts payloads of committed histories for any workflow: a replay has another workflow id.

    The first histories were recorded before each payload had a key of its own.
    """

    def with_context(self, context: SerializationContext) -> RecordedPayloads:
        return self

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encryption-cipher") != b"AES-256-GCM":
            return super()._decrypt(payload)
        key_id, data = payload.metadata["encryption-key-id"], payload.data
        plain = AESGCM(RING.payload.keys[key_id.decode()]).decrypt(data[:12], data[12:], key_id)
        return Payload.FromString(plain)


CODEC = RecordedPayloads(RING.payload.current, RING.payload.keys)


def system_workflows() -> dict[str, type]:
    """The workflows of the system's jobs by name."""
    found = [each for queue in Queue for each in workflows_of(queue)]
    return {str(_Definition.must_from_class(each).name): each for each in found}


def workflow_of(file: Path) -> str:
    """The name of a committed history's workflow."""
    return file.stem.partition("-")[0]


def unrecorded(directory: Path) -> list[str]:
    """The workflows of the catalogue and of the system that have no committed history."""
    recorded = {workflow_of(file) for file in directory.glob("*.json")}
    return sorted({*catalog(), *system_workflows()} - recorded)


def keep(directory: Path, workflow_id: str, course: str, history: WorkflowHistory, *, again: bool = False) -> Path:
    """Write a history, unless there is one: running instances may have one like it."""
    file = directory / f"{workflow_id}-{course}.json"
    if again or not file.exists():
        file.write_text(history.to_json())
    return file
