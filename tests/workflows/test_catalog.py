"""Declarations that the catalogue accepts, and those that it rejects at import."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from models.rules.triggers import Exit, ParameterReference
from tests.support.journeys import Leaver, Patience
from workflows.authoring import (
    Duration,
    LifecycleWorkflow,
    Parameters,
    days,
    from_trigger,
    lifecycle,
    on,
    parameter,
    when,
)
from workflows.catalog import catalog

LIFECYCLES = Path(__file__).parents[2] / "workflows" / "lifecycle"
REAL = sorted(path for path in LIFECYCLES.glob("*.py") if path.name != "__init__.py")
ALLOWED_MODULES = {"__future__", "asyncio", "dataclasses", "datetime", "enum", "typing", "collections.abc"}
ALLOWED_PACKAGES = ("workflows.authoring", "activities.", "models.")
FORBIDDEN_CALLS = {"sleep", "wait_for", "timeout", "timeout_at", "today", "utcnow", "open", "eval", "exec"}


def declared(**options: Any) -> type[LifecycleWorkflow[Patience]]:
    class Declared(LifecycleWorkflow[Patience]):
        """A workflow. Of one paragraph.

        And another."""

        async def journey(self, parameters: Patience) -> None:
            """Nothing."""

    Declared.__qualname__ = "Declared"
    return lifecycle("declared", **{"purpose": None, **options})(Declared)


@pytest.mark.parametrize("definition", catalog().values(), ids=lambda each: each.workflow_id)
def test_every_workflow_and_parameter_is_described_and_has_a_default(definition: Any) -> None:
    for name, schema in definition.parameter_schema["properties"].items():
        assert "default" in schema, f"{name} needs a default"
        assert schema["description"], f"{name} needs a docstring"
    for name, field in definition.parameters.model_fields.items():
        if isinstance(field.default, timedelta):
            schema = definition.parameter_schema["properties"][name]
            assert schema["format"] == "duration", f"{name} must be a Duration"
            assert schema["default"].startswith("P")
    assert len(definition.description) > 40, "the class needs a docstring that describes the workflow"


@pytest.mark.parametrize("path", REAL, ids=lambda each: each.stem)
def test_a_parameter_limits_every_wait_for_an_hour(path: Path) -> None:
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "self.sleep_until_local":
            within = {each.arg: ast.unparse(each.value) for each in call.keywords}.get("within", "")
            assert within.startswith("parameters."), f"line {call.lineno}: within= must be a parameter"


def test_a_declaration_accepts_each_form_of_an_exit() -> None:
    assert declared(exit_on="a.b").definition.exits == (Exit("a.b", "a.b"),)
    assert declared(exit_on=when("a.b", reason="c", d=1)).definition.exits == (Exit("a.b", "c", {"d": 1}),)
    compared = declared(exit_on=when("a.b", d=parameter("rounds"))).definition.exits
    assert compared == (Exit("a.b", "a.b", compared={"d": ParameterReference("rounds")}),)
    assert [each.reason for each in Leaver.definition.exits] == ["bought", "cart.drop"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"once_per": days(1)}, "needs a trigger"),
        ({"once_per": timedelta(), "trigger": on("a.b")}, "must be positive"),
        ({"max_attempts": 0}, "1 to 100"),
        ({"purpose": "spam"}, "not a valid Purpose"),
        ({"key": ["speed"]}, "names the parameter 'speed', which Patience lacks"),
        ({"key": ["rounds"], "once": True}, "once for a user, or has a key"),
        ({"exit_on": when("a.b", c=parameter("speed"))}, "names the parameter 'speed', which Patience lacks"),
    ],
)
def test_an_inconsistent_declaration_is_rejected(options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        declared(**options)


def test_an_id_that_does_not_fit_a_url_is_rejected() -> None:
    with pytest.raises(TypeError, match="no workflow id"):
        lifecycle("Cart Recovery", purpose=None)(Leaver)


def test_parameters_without_a_default_or_with_a_bare_timedelta_are_rejected() -> None:
    class Naked(Parameters):
        wait: Duration

    class Bare(Parameters):
        wait: timedelta = timedelta(1)

    for model, text in ((Naked, "needs a default"), (Bare, "must be a Duration")):
        bases = (LifecycleWorkflow[model],)  # type: ignore[valid-type]
        Wrong = type("Wrong", (LifecycleWorkflow,), {"__orig_bases__": bases})  # noqa: N806
        with pytest.raises(TypeError, match=text):
            lifecycle("wrong", purpose=None)(Wrong)


def test_parameters_from_a_trigger_need_one() -> None:
    class Taking(Parameters):
        plan: str = from_trigger("plan", default="basic")

    bases = (LifecycleWorkflow[Taking],)
    Untriggered = type("Untriggered", (LifecycleWorkflow,), {"__orig_bases__": bases})  # noqa: N806
    with pytest.raises(TypeError, match=r"Taking\.plan is from_trigger, and 'wrong' has none"):
        lifecycle("wrong", purpose=None)(Untriggered)


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_workflow_s_file_imports_and_calls_deterministic_code_alone(path: Path) -> None:
    """Time and random numbers come from the base class."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module in ALLOWED_MODULES or str(node.module).startswith(ALLOWED_PACKAGES), node.module
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= ALLOWED_MODULES
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of_self = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self"
            assert of_self or called not in FORBIDDEN_CALLS | {"now"}, ast.unparse(node)
