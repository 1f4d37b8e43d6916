"""Adds the benchmarks' own workflows to the catalogue of a process."""

from __future__ import annotations

from collections.abc import Iterator

from workflows import catalog

_shipped = catalog._modules


def _modules() -> Iterator[str]:
    yield from _shipped()
    yield "benchmarks.journeys"


def extend() -> None:
    """Make :func:`workflows.catalog.find` find them."""
    catalog._modules = _modules
