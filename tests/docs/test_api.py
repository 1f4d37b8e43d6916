"""`docs/api.md` names every code of a problem."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from models import errors
from models.errors import NotFoundError, PerennialError
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text()
_CALLS = {"FieldError": 1, "PydanticCustomError": 0, "_query_error": 1, "_refused": 0}
"""Calls that make an error of one place in a request, with the position of the code among the arguments."""


def _raised(kind: type[PerennialError]) -> Iterator[type[PerennialError]]:
    """The classes that are raised: those without subclasses, and `NotFoundError`."""
    if kind is NotFoundError or not kind.__subclasses__():
        yield kind
    for each in kind.__subclasses__():
        yield from _raised(each)


def _codes_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            place = _CALLS[node.func.id]
            argument = node.args[place] if len(node.args) > place else None
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def test_every_code_of_a_problem_is_named() -> None:
    codes = {kind.code for kind in _raised(PerennialError) if kind.__module__ == errors.__name__}
    assert len(codes) > 20
    assert not {code for code in codes if f"`{code}`" not in PAGE}


def test_every_code_of_an_error_in_a_request_is_named() -> None:
    files = [
        file for package in ("api", "models", "store", "workflows") for file in (ROOT / package).rglob("*.py")
    ]
    codes = {code for file in files for code in _codes_in(ast.parse(file.read_text()))}
    assert len(codes) > 20
    assert not {code for code in codes if f"`{code}`" not in PAGE}
