"""Which lifecycle workflows exist: found in :mod:`workflows.lifecycle`, described by their decorator."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict
from temporalio import workflow

from models.errors import WorkflowNotFound
from models.messages.execution import LifecycleInput, LifecycleOutcome
from models.rules.triggers import Trigger, WorkflowTrigger
from models.vocabulary import Purpose

if TYPE_CHECKING:
    from workflows.base import LifecycleWorkflow

DEFAULT_MAX_ATTEMPTS = 3


class Parameters(BaseModel):
    """Base of a workflow's parameters: every one has a default, unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Definition:
    """What the catalogue knows of a lifecycle workflow."""

    workflow_id: str
    description: str
    purpose: Purpose | None
    """The consent that it needs; None for a service workflow, which needs none."""
    trigger: Trigger | None
    """The event that starts it by itself."""
    max_attempts: int
    parameters: type[Parameters]
    implementation: type[LifecycleWorkflow[Any]]

    def default_parameters(self) -> dict[str, Any]:
        """The parameters' defaults as JSON values."""
        return self.parameters().model_dump(mode="json")

    def parameter_schema(self) -> dict[str, Any]:
        """JSON Schema of the parameters; waits are `"format": "duration"`."""
        return self.parameters.model_json_schema()


Workflow = TypeVar("Workflow", bound="LifecycleWorkflow[Any]")


def lifecycle(
    workflow_id: str,
    *,
    purpose: Purpose | None,
    trigger: Trigger | None = None,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
) -> Callable[[type[Workflow]], type[Workflow]]:
    """Declare a lifecycle workflow. The first paragraph of the class's docstring becomes its description.

    The parameter model is the type argument of ``LifecycleWorkflow[...]``. The Temporal workflow type is
    the workflow's id, so renaming the class changes nothing for running instances.
    """

    def declare(cls: type[Workflow]) -> type[Workflow]:
        parameters = _parameters_of(cls)
        cls.definition = Definition(
            workflow_id=workflow_id,
            description=" ".join((cls.__doc__ or "").split("\n\n")[0].split()),
            purpose=purpose,
            trigger=trigger,
            max_attempts=max_attempts,
            parameters=parameters,
            implementation=cls,
        )
        return _as_temporal_workflow(cls, workflow_id)

    return declare


def _parameters_of(cls: type[Any]) -> type[Parameters]:
    for base in getattr(cls, "__orig_bases__", ()):
        for argument in get_args(base):
            if isinstance(argument, type) and issubclass(argument, Parameters):
                without = [name for name, field in argument.model_fields.items() if field.is_required()]
                if without:
                    raise TypeError(f"{argument.__name__}.{without[0]} needs a default")
                return argument
    raise TypeError(f"{cls.__name__} must derive from LifecycleWorkflow[SomeParameters]")


def _as_temporal_workflow(cls: type[Workflow], workflow_id: str) -> type[Workflow]:
    """Give the class a constructor and a run method of its own: the SDK wants both on the class, not on a base."""

    def init(self: LifecycleWorkflow[Any], start: LifecycleInput) -> None:
        super(cls, self).__init__(start)  # type: ignore[call-arg]  # the base's own

    async def run(self: LifecycleWorkflow[Any], start: LifecycleInput) -> LifecycleOutcome:
        return await self.execute()

    init.__name__, init.__qualname__ = "__init__", f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    init.__annotations__ = {"start": LifecycleInput, "return": None}
    cls.__init__ = workflow.init(init)  # type: ignore[method-assign]
    run.__qualname__ = f"{cls.__qualname__}.run"
    run.__module__ = cls.__module__
    run.__annotations__ = {"start": LifecycleInput, "return": LifecycleOutcome}
    cls.run = workflow.run(run)  # type: ignore[attr-defined]
    return workflow.defn(name=workflow_id)(cls)


def _modules() -> Iterator[str]:
    package = importlib.import_module("workflows.lifecycle")
    for module in pkgutil.iter_modules(package.__path__, "workflows.lifecycle."):
        yield module.name


def find(workflow_id: str) -> Definition:
    """One lifecycle workflow; raises :class:`WorkflowNotFound`."""
    definition = catalog().get(workflow_id)
    if definition is None:
        raise WorkflowNotFound
    return definition


@cache
def catalog() -> Mapping[str, Definition]:
    """All lifecycle workflows by id, in alphabetical order."""
    found: dict[str, Definition] = {}
    for name in _modules():
        for member in vars(importlib.import_module(name)).values():
            definition = getattr(member, "definition", None)
            if not isinstance(definition, Definition) or member is not definition.implementation:
                continue
            if found.setdefault(definition.workflow_id, definition) is not definition:
                raise TypeError(f"two lifecycle workflows are called '{definition.workflow_id}'")
    return dict(sorted(found.items()))


def triggers() -> list[WorkflowTrigger]:
    """Which events start which workflows."""
    return [
        WorkflowTrigger(definition.workflow_id, definition.trigger)
        for definition in catalog().values()
        if definition.trigger is not None
    ]
