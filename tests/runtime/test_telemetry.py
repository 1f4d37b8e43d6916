"""Logs: what they say, and that nothing personal is in them, whoever wrote them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.logs import logged

ROOT = Path(__file__).parents[2]
CANARY = "kanarie@example.com"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda log: log.info("it has started"), "it has started"),
        (lambda log: log.info("written to %s", CANARY), "written to %s"),
        (lambda log: log.info(f"failed for {CANARY} today"), "failed for "),  # noqa: G004
        (lambda log: log.info(f"{CANARY} has failed"), ""),  # noqa: G004
        (lambda log: log.info("failed: " + CANARY), "failed: "),  # noqa: G003
        (lambda log: log.info(CANARY.upper()), ""),
        (lambda log: log.info(ValueError(CANARY)), ""),
        (lambda log: log.info("done", extra={"who": CANARY}), "done"),
    ],
)
def test_of_a_librarys_record_only_what_its_code_says_is_kept(
    write: Callable[[logging.Logger], None], message: str
) -> None:
    with logged("somelibrary") as lines:
        write(logging.getLogger("somelibrary.part"))
    (line,) = lines()
    assert line["message"] == message
    assert CANARY not in str(line).lower()
    assert line["at"].startswith("test_telemetry.py:")


def test_ours_keep_message_and_extras() -> None:
    with logged("perennial") as lines:
        logging.getLogger("perennial.some").info("%s of them", 3, extra={"shard": 4})
    (line,) = lines()
    assert (line["message"], line["shard"]) == ("3 of them", 4)


def test_an_exception_is_its_type_and_places() -> None:
    with logged("perennial") as lines:
        try:
            raise LookupError(CANARY)
        except LookupError:
            logging.getLogger("perennial.some").exception("it failed")
    (line,) = lines()
    assert line["error"]["type"] == "builtins.LookupError"
    assert line["error"]["at"][0].startswith("test_telemetry.py:")
    assert CANARY not in str(line)


PROGRAM = """
import asyncio, gc, logging, threading, warnings
from runtime.settings import Settings
from runtime.telemetry import configure_logging

canary = "kanarie@" + "example.com"

async def fail():
    raise ValueError(canary)

async def forgotten():
    asyncio.ensure_future(fail())
    await asyncio.sleep(0.01)

class Careless:
    def __del__(self):
        raise ValueError(canary)

configure_logging(Settings())
thread = threading.Thread(target=int, args=[canary])
thread.start()
thread.join()
warnings.warn(canary)
logging.getLogger("perennial").info("%d", canary)
asyncio.run(forgotten())
gc.collect()
Careless()
raise ValueError(canary)
"""


def test_what_python_itself_writes_to_standard_error_says_nothing_of_anybody() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert CANARY not in ended.stderr + ended.stdout
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["logger"] for line in lines] == [
        "perennial.process",
        "py.warnings",
        "perennial",
        "asyncio",
        "perennial.process",
        "perennial.process",
    ], "each is logged all the same"
