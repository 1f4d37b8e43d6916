"""Runs mutmut over modules with quick tests, in a copy of the checkout, within a time limit.

    python -m tests.mutation [--seconds 900] [--processes 1] [MODULE.py ...]

Exit code 0 if at least nine of ten mutants are killed and each survivor is named in `equivalent.txt`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
MODULES = (
    *(f"models/rules/{name}.py" for name in ("activity", "durations", "folding", "local_time", "money")),
    *(f"models/rules/{name}.py" for name in ("sharding", "triggers")),
    *(f"privacy/{name}.py" for name in ("encryption", "keyring", "masking")),
)
TESTS = (
    "tests/models",
    *(
        f"tests/privacy/test_{name}.py"
        for name in ("derived_values", "documents", "encryption", "keyring", "masking")
    ),
    "tests/events/test_folding.py",
    "tests/store/test_profile_rules.py",
)
PACKAGES = (
    *("activities", "api", "checks", "clients", "delivery", "migrations", "models", "privacy", "runtime", "store"),
    "workflows",
)
# Words of an error for people are no behaviour that a test should repeat.
UNCHANGED = r"^\s*raise \w+Error\("
LEAST_KILLED = 0.9
_RESULT = re.compile(r"\s+(\S+__mutmut_\d+): (.+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", help="files to change, such as privacy/masking.py; default: all")
    parser.add_argument("--seconds", type=float, default=900, help="stop after so long; the rest isn't checked")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perennial-mutants-") as directory:
        copy = Path(directory) / "checkout"
        _copy_checkout(copy, given.modules or MODULES)
        began = time.monotonic()
        _run(copy, given.seconds, given.processes)
        return _summarise(copy, time.monotonic() - began)


def _copy_checkout(copy: Path, modules: tuple[str, ...] | list[str]) -> None:
    copy.mkdir()
    for name in (*PACKAGES, "cli", "testing", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "histories"))
    for name in ("worker.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    settings = {
        "source_paths": list(PACKAGES),
        "only_mutate": list(modules),
        "do_not_mutate_patterns": [UNCHANGED],
        "also_copy": ["cli", "testing", "worker.py"],
        "pytest_add_cli_args": ["-m", "not slow and not chaos"],
        "pytest_add_cli_args_test_selection": list(TESTS),
    }
    lines = [f"{name} = {[*map(str, values)]!r}".replace("\\\\", "\\") for name, values in settings.items()]
    with (copy / "pyproject.toml").open("a") as file:
        file.write("\n".join(["", "[tool.mutmut]", "use_git_change_detection = false", *lines, ""]))


def _run(copy: Path, seconds: float, processes: int) -> None:
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=copy, env=_environment(), timeout=seconds, check=False)


def _environment() -> dict[str, str]:
    # Its imports must be those of the copy.
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _summarise(copy: Path, seconds: float) -> int:
    listed = _mutmut(copy, "results", "--all", "true")
    results = dict(_RESULT.findall(listed))
    if not results:
        _say(f"{listed}No mutant was made: see above.")
        return 1
    known, unnamed = _equivalents(), []
    for name, result in results.items():
        if result in ("survived", "no tests"):
            diff = _mutmut(copy, "show", name)
            if (_function(name), _added(diff)) in known:
                results[name] = "equivalent"
            else:
                unnamed.append(diff)
    for diff in unnamed:
        _say(diff)
    modules: dict[str, Counter[str]] = {}
    for name, result in results.items():
        modules.setdefault(name.partition(".x")[0], Counter())[result] += 1
    for module, count in modules.items():
        _say(f"{module}: " + ", ".join(f"{number} {result}" for result, number in sorted(count.items())))
    total = sum(modules.values(), Counter())
    judged = total.total() - total["not checked"] - total["equivalent"]
    share = (total["killed"] + total["timeout"]) / max(judged, 1)
    _say(f"{share:.1%} of {judged} mutants killed in {seconds:.0f} s; {total['not checked']} not checked")
    return 0 if share >= LEAST_KILLED and not unnamed else 1


def _mutmut(copy: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=copy, env=_environment(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _function(name: str) -> str:
    """``models.rules.money.average`` of ``models.rules.money.x_average__mutmut_6``; a method with its class."""
    module, _, function = name.rpartition("__mutmut_")[0].rpartition(".x")
    return f"{module}.{function.strip('_ǁ').replace('ǁ', '.') if function.startswith('ǁ') else function[1:]}"


def _added(diff: str) -> str:
    """The changed line, in its new form."""
    lines = [line[1:].strip() for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    return " ".join(lines)


def _equivalents() -> set[tuple[str, str]]:
    """(function, changed line) of each mutant that behaves like the code."""
    rows = [line for line in EQUIVALENT.read_text().splitlines() if line and not line.startswith("#")]
    # A changed line may hold " | " itself.
    return {(row.partition(" | ")[0], row.partition(" | ")[2].rpartition(" | ")[0]) for row in rows}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
