"""`python -m tests.support.marketed COMMAND`: the `perennial` command with one more workflow in its catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from cli.__main__ import main
from workflows import catalog

_shipped = catalog._modules


def _modules() -> Iterator[str]:
    yield from _shipped()
    yield "tests.support.newsletter"


catalog._modules = _modules

if __name__ == "__main__":
    main()
