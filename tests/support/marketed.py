"""`python -m tests.support.marketed COMMAND`: the `perennial` command with one more workflow in its catalogue.

Its reconciler takes no history for lost. Tests of one folder share a database, and some run on another Temporal.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from activities import reconciler
from cli.__main__ import main
from workflows import catalog

_shipped = catalog._modules


def _modules() -> Iterator[str]:
    yield from _shipped()
    yield "tests.support.newsletter"


catalog._modules = _modules
reconciler.LOST_AFTER = timedelta(hours=1)

if __name__ == "__main__":
    main()
