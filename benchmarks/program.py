"""`python -m benchmarks.program COMMAND`: `perennial` with the benchmarks' workflows in its catalogue."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import catalogue
from cli.__main__ import main
from runtime.embedded.ports import StackOptions
from runtime.embedded.supervisor import run_stack
from runtime.settings import load_settings

MODULE = "benchmarks.program"


def _stack(home: Path) -> int:
    """`perennial dev` on free ports; its processes run this module, and so have these workflows too."""
    options = StackOptions(home=home.absolute(), api_port=0, temporal_port=0, ui_port=0)
    return run_stack(options, load_settings(), program=(sys.executable, "-P", "-m", MODULE))


if __name__ == "__main__":
    catalogue.extend()
    if sys.argv[1] == "stack":
        sys.exit(_stack(Path(sys.argv[2])))
    main()
