"""The system workflows that every worker serves."""

from __future__ import annotations

from typing import Any

from workflows.system.audit import AuditCheckpointWorkflow
from workflows.system.callback import CallbackWorkflow
from workflows.system.outbox import OutboxWorkflow
from workflows.system.partitions import PartitionsWorkflow
from workflows.system.projector import ProjectorWorkflow
from workflows.system.reconciler import ReconcilerWorkflow
from workflows.system.redaction import RedactionWorkflow
from workflows.system.retention import RetentionWorkflow

SYSTEM_WORKFLOWS: tuple[type[Any], ...] = (
    ProjectorWorkflow,
    OutboxWorkflow,
    RedactionWorkflow,
    PartitionsWorkflow,
    AuditCheckpointWorkflow,
    RetentionWorkflow,
    ReconcilerWorkflow,
    CallbackWorkflow,
)
