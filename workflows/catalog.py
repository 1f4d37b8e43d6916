"""Declares lifecycle workflows, and finds them in :mod:`workflows.lifecycle`."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict
from temporalio import workflow

from delivery.templates import TEMPLATES, MessageTemplate
from models.errors import WorkflowNotFoundError
from models.rules.parameters import parameters_from, taken_from_trigger
from models.rules.triggers import FOREVER, Exit, Trigger, WorkflowTrigger, when
from models.temporal.execution import LifecycleInput, LifecycleOutcome
from models.temporal.starting import Startable
from models.vocabulary import Purpose
from workflows.policies import MOST_ATTEMPTS

if TYPE_CHECKING:
    from workflows.base import LifecycleWorkflow

DEFAULT_MAX_ATTEMPTS = 30
"""With the pauses of :data:`workflows.policies.OUTSIDE`, a step that fails is tried for about 22 hours."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class Parameters(BaseModel):
    """Base of a workflow's parameters. Each needs a default. Unknown parameters are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True)
class Definition:
    workflow_id: str
    description: str
    purpose: Purpose | None
    """The consent that it needs; None for a service workflow."""
    trigger: Trigger | None
    """The event that starts it."""
    exits: tuple[Exit, ...]
    """The events that end it early."""
    once_per: timedelta | None
    """Within this time its trigger starts at most one instance per user."""
    once: bool
    """Whether it runs once for a user, whether a trigger or a request starts it."""
    key: tuple[str, ...]
    """Parameters for whose values at most one instance per user runs."""
    max_attempts: int
    messages: Mapping[str, MessageTemplate]
    """Its own message texts, by name."""
    parameters: type[Parameters]
    implementation: type[LifecycleWorkflow[Any]]

    @property
    def window(self) -> timedelta | None:
        return FOREVER if self.once else self.once_per

    @cached_property
    def startable(self) -> Startable:
        return Startable(
            workflow_id=self.workflow_id,
            description=self.description,
            purpose=self.purpose,
            max_attempts=self.max_attempts,
            default_parameters=self.parameters().model_dump(mode="json"),
            exits=self.exits,
            once_per=self.window,
            once=self.once,
            key=self.key,
            triggered_parameters=(
                partial(parameters_from, self.parameters) if taken_from_trigger(self.parameters) else None
            ),
        )

    def parameters_from(self, stored: Mapping[str, Any]) -> Parameters:
        """The parameters of a started instance, without those that the definition no longer has."""
        fields = self.parameters.model_fields
        return self.parameters.model_validate({name: value for name, value in stored.items() if name in fields})

    @cached_property
    def parameter_schema(self) -> dict[str, Any]:
        """JSON Schema of the parameters; durations have `"format": "duration"`."""
        return self.parameters.model_json_schema()


Workflow = TypeVar("Workflow", bound="LifecycleWorkflow[Any]")


def lifecycle(
    workflow_id: str,
    *,
    purpose: Purpose | str | None,
    trigger: Trigger | None = None,
    exit_on: Exit | str | Sequence[Exit | str] = (),
    once_per: timedelta | None = None,
    once: bool = False,
    key: Sequence[str] = (),
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    messages: Mapping[str, MessageTemplate] | None = None,
) -> Callable[[type[Workflow]], type[Workflow]]:
    """Declare a lifecycle workflow. The first paragraph of the class's docstring becomes its description.

    - ``purpose``: the consent that it needs; None for a service workflow.
    - ``trigger``: the event that starts it, at most once per user within ``once_per``. Requests are unlimited.
    - ``once``: it runs once for a user, whether a trigger or a request starts it. A request can ask for ``again``.
    - ``key``: parameters for whose values at most one instance per user runs, whether a trigger or a request
      starts it. ``once_per`` counts for each key by itself.
    - ``exit_on``: events that end it; they interrupt any wait at once.
    - ``max_attempts``: attempts at each step, unless the step, an admin or a request sets another number.
    - ``messages``: its own message texts, by template name.

    The parameter model is the type argument of ``LifecycleWorkflow[...]``. The Temporal workflow type is the
    workflow's id, so renaming the class doesn't affect running instances.
    """

    def declare(cls: type[Workflow]) -> type[Workflow]:
        parameters = _parameters_of(cls)
        exits = _exits(exit_on)
        _check(workflow_id, trigger, once_per, once, max_attempts)
        _check_parameters(workflow_id, trigger, exits, key, parameters)
        if key and once:
            raise TypeError(f"'{workflow_id}' is once for a user, or has a key")
        cls.definition = Definition(
            workflow_id=workflow_id,
            description=" ".join((cls.__doc__ or "").split("\n\n")[0].split()),
            purpose=None if purpose is None else Purpose(purpose),
            trigger=trigger,
            exits=exits,
            once_per=once_per,
            once=once,
            key=tuple(key),
            max_attempts=max_attempts,
            messages=messages or {},
            parameters=parameters,
            implementation=cls,
        )
        return _as_temporal_workflow(cls, workflow_id)

    return declare


def _check(
    workflow_id: str, trigger: Trigger | None, once_per: timedelta | None, once: bool, max_attempts: int
) -> None:
    if _NAME.fullmatch(workflow_id) is None:
        raise TypeError(f"'{workflow_id}' is no workflow id: use lower case, digits and underscores")
    if once_per is not None and (trigger is None or once_per <= timedelta()):
        raise TypeError(f"once_per of '{workflow_id}' must be positive, and needs a trigger to bind")
    if once and once_per is not None:
        raise TypeError(f"'{workflow_id}' is once for ever, or once_per a time")
    if not 1 <= max_attempts <= MOST_ATTEMPTS:
        raise TypeError(f"max_attempts of '{workflow_id}' must be 1 to {MOST_ATTEMPTS}")


def _check_parameters(
    workflow_id: str,
    trigger: Trigger | None,
    exits: Sequence[Exit],
    key: Sequence[str],
    parameters: type[Parameters],
) -> None:
    taken = taken_from_trigger(parameters)
    if taken and trigger is None:
        raise TypeError(f"{parameters.__name__}.{next(iter(taken))} is from_trigger, and '{workflow_id}' has none")
    named = [reference.name for each in exits for reference in each.compared.values()]
    unknown = [name for name in (*key, *named) if name not in parameters.model_fields]
    if unknown:
        raise TypeError(f"'{workflow_id}' names the parameter '{unknown[0]}', which {parameters.__name__} lacks")


def _exits(exit_on: Exit | str | Sequence[Exit | str]) -> tuple[Exit, ...]:
    given = [exit_on] if isinstance(exit_on, Exit | str) else exit_on
    return tuple(when(each) if isinstance(each, str) else each for each in given)


def _parameters_of(cls: type[Any]) -> type[Parameters]:
    for base in getattr(cls, "__orig_bases__", ()):
        for argument in get_args(base):
            if isinstance(argument, type) and issubclass(argument, Parameters):
                without = [name for name, field in argument.model_fields.items() if field.is_required()]
                if without:
                    raise TypeError(f"{argument.__name__}.{without[0]} needs a default")
                _check_durations(argument)
                return argument
    raise TypeError(f"{cls.__name__} must derive from LifecycleWorkflow[SomeParameters]")


def _check_durations(parameters: type[Parameters]) -> None:
    """Reject a bare timedelta: the API would accept a number of seconds, and not only ISO 8601 durations."""
    for name, field in parameters.model_fields.items():
        if field.annotation is timedelta and not field.metadata:
            raise TypeError(f"{parameters.__name__}.{name} must be a Duration")


def _as_temporal_workflow(cls: type[Workflow], workflow_id: str) -> type[Workflow]:
    """Add a constructor and a run method: the SDK requires both on the class itself, not on a base."""

    def init(self: LifecycleWorkflow[Any], start: LifecycleInput) -> None:
        super(cls, self).__init__(start)

    async def run(self: LifecycleWorkflow[Any], start: LifecycleInput) -> LifecycleOutcome:
        return await self.execute()

    init.__name__, init.__qualname__ = "__init__", f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    # The SDK resolves annotations. Those above are strings, and LifecycleWorkflow isn't imported at run time.
    init.__annotations__ = {"start": LifecycleInput, "return": None}
    cls.__init__ = workflow.init(init)  # type: ignore[method-assign, assignment]
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
    """One lifecycle workflow. Raises :class:`WorkflowNotFoundError`."""
    definition = catalog().get(workflow_id)
    if definition is None:
        raise WorkflowNotFoundError
    return definition


@cache
def catalog() -> Mapping[str, Definition]:
    """All lifecycle workflows by id, in alphabetical order."""
    found: dict[str, Definition] = {}
    for name in _modules():
        for member in vars(importlib.import_module(name)).values():
            definition = getattr(member, "definition", None)
            if not isinstance(definition, Definition) or member is not definition.implementation:
                continue  # also a subclass without a declaration: it inherits its parent's
            if found.setdefault(definition.workflow_id, definition) is not definition:
                raise TypeError(f"two lifecycle workflows are called '{definition.workflow_id}'")
    return dict(sorted(found.items()))


def templates(definitions: Iterable[Definition]) -> Mapping[str, MessageTemplate]:
    """The shared message texts and those of workflows, by name. Raises TypeError for a name with two texts."""
    found = dict(TEMPLATES)
    for definition in definitions:
        for name, text in definition.messages.items():
            if found.setdefault(name, text) != text:
                raise TypeError(f"'{definition.workflow_id}' has another message called '{name}'")
    return found


def triggers(definitions: Iterable[Definition] | None = None) -> list[WorkflowTrigger]:
    """The events that start the workflows of the catalogue, or those given.

    Only a start knows its key, and so whether a window of that key is open.
    """
    return [
        WorkflowTrigger(
            definition.workflow_id,
            definition.trigger,
            None if definition.key else definition.window,
            definition.purpose,
        )
        for definition in (catalog().values() if definitions is None else definitions)
        if definition.trigger is not None
    ]
