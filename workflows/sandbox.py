"""The sandbox in which workers and replay tests run workflows."""

from __future__ import annotations

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

_PACKAGES = ("activities", "delivery", "models", "privacy", "pydantic", "pydantic_core", "runtime", "store")
_WORKFLOW_MODULES = (
    "authoring",
    "base",
    "catalog",
    "inbox",
    "instance",
    "policies",
    "steps",
    "system",
    "tasks",
)
"""Imported once for all runs. The sandbox imports the lifecycle files again for each run, and restricts them."""


def workflow_runner() -> SandboxedWorkflowRunner:
    return SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules(
            *_PACKAGES, *(f"workflows.{name}" for name in _WORKFLOW_MODULES)
        )
    )
