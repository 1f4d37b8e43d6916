"""The sandbox in which workers and replay tests run workflows. It logs failed workflow tasks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from temporalio import workflow
from temporalio.bridge.proto.workflow_activation import RemoveFromCache, WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from models.vocabulary import ProblemKind

logger = logging.getLogger("perennial.workflows")

_PACKAGES = ("activities", "delivery", "models", "privacy", "pydantic", "pydantic_core", "runtime", "store")
_WORKFLOW_MODULES = (
    "authoring",
    "base",
    "catalog",
    "inbox",
    "instance",
    "naming",
    "policies",
    "steps",
    "system",
    "tasks",
)
"""Imported once for all runs. The sandbox imports the lifecycle files again for each run, and restricts them."""


class _Logged(WorkflowInstance):
    """A workflow's instance that logs failed tasks by the instance's id.

    The SDK and its core log them too: without the id, or without a text that may be logged. A task fails in one of
    two ways. The workflow's code raises, and the activation's completion says so. Or the core finds that the
    commands don't fit the history, and evicts the instance for that reason.
    """

    def __init__(self, instance: WorkflowInstance) -> None:
        self._instance = instance
        self._reported = False

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        for job in act.jobs:
            if job.HasField("remove_from_cache"):
                self._report_eviction(job.remove_from_cache.reason)
        completion = self._instance.activate(act)
        if completion.HasField("failed"):
            self._report(completion.failed.failure.application_failure_info.type or "unknown")
        return completion

    def _report_eviction(self, reason: RemoveFromCache.EvictionReason.ValueType) -> None:
        if reason in (RemoveFromCache.NONDETERMINISM, RemoveFromCache.LANG_FAIL, RemoveFromCache.FATAL):
            self._report(RemoveFromCache.EvictionReason.Name(reason).lower())

    def _report(self, cause: str) -> None:
        """Log the failure once for each time that the worker loads the instance."""
        if self._reported:
            return
        self._reported = True
        workflow_id, _, instance_id = self.get_info().workflow_id.rpartition("/")
        logger.error(
            "a workflow task failed",
            extra={
                "workflow_id": workflow_id,
                "instance_id": instance_id,
                "run_id": self.get_info().run_id,
                "problem": ProblemKind.INCOMPATIBLE_DEPLOY.value,
                "cause": cause,
            },
        )

    def get_info(self) -> Any:
        return self._instance.get_info()

    def get_serialization_context(self, command_info: Any) -> Any:
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self._instance.get_external_store_context(command_info)

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()


_prepared: WeakSet[type[Any]] = WeakSet()


@dataclass(frozen=True)
class _LoggingRunner(SandboxedWorkflowRunner):
    def prepare_workflow(self, defn: workflow._Definition) -> None:
        """Check that the sandbox can load the class: once, although a test process starts hundreds of workers."""
        if defn.cls not in _prepared:
            super().prepare_workflow(defn)
            _prepared.add(defn.cls)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return _Logged(super().create_instance(det))


def workflow_runner() -> SandboxedWorkflowRunner:
    return _LoggingRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules(
            *_PACKAGES, *(f"workflows.{name}" for name in _WORKFLOW_MODULES)
        )
    )
