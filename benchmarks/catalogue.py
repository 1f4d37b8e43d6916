"""The catalogue with the benchmarks' own workflows in it, for processes that need them."""

from __future__ import annotations

from collections.abc import Iterator

from workflows import catalog

_shipped = catalog._modules


def _modules() -> Iterator[str]:
    yield from _shipped()
    yield "benchmarks.journeys"


def extend() -> None:
    """From here on :func:`workflows.catalog.find` knows them."""
    catalog._modules = _modules
