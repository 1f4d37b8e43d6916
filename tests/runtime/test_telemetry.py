"""Logs hold no personal data, whichever library or interpreter writes them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.telemetry import WITHHELD
from tests.support.logs import logged

ROOT = Path(__file__).parents[2]
CANARY = "kanarie@example.com"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda log: log.info("written to %s", CANARY), "written to %s"),
        (lambda log: log.info(f"failed for {CANARY} today"), WITHHELD),  # noqa: G004
        (lambda log: log.info(f"{CANARY} has failed"), WITHHELD),  # noqa: G004
        (lambda log: log.info("failed: " + CANARY), WITHHELD),  # noqa: G003
        (lambda log: log.info(CANARY.upper()), WITHHELD),
        (lambda log: log.info(ValueError(CANARY)), WITHHELD),
        (lambda log: log.info("a constant text"), WITHHELD),
        (lambda log: log.info("Completing activity as failed"), "Completing activity as failed"),
        (lambda log: log.info(f"Failed activation on workflow {CANARY}"), "Failed activation on workflow"),  # noqa: G004
        (lambda log: log.info("%d done", 1, extra={"who": CANARY}), "%d done"),
    ],
)
def test_a_librarys_record_keeps_its_template_or_a_known_text_and_no_argument(
    write: Callable[[logging.Logger], None], message: str
) -> None:
    with logged("somelibrary") as lines:
        write(logging.getLogger("somelibrary.part"))
    (line,) = lines()
    assert line["message"] == message
    assert CANARY not in str(line).lower()
    assert line["at"].startswith("test_telemetry.py:")


def test_a_record_of_temporals_keeps_the_ids_of_its_workflow_alone() -> None:
    details = {"workflow_id": "onboarding/1", "attempt": 2, "activity_type": "send", "memo": CANARY}
    with logged("temporalio") as lines:
        logging.getLogger("temporalio.activity").warning(
            CANARY, extra={"temporal_activity": details, "who": CANARY}
        )
    (line,) = lines()
    assert line["temporal"] == {"workflow_id": "onboarding/1", "attempt": 2, "activity_type": "send"}
    assert CANARY not in str(line)


def test_an_object_in_an_extra_field_is_logged_as_its_type() -> None:
    with logged("perennial") as lines:
        logging.getLogger("perennial.some").info("it failed", extra={"cause": ValueError(CANARY)})
    (line,) = lines()
    assert line["cause"] == "ValueError"


def test_our_own_records_keep_their_message_and_extra_fields() -> None:
    with logged("perennial") as lines:
        logging.getLogger("perennial.some").info("%s of them", 3, extra={"shard": 4})
    (line,) = lines()
    assert (line["message"], line["shard"]) == ("3 of them", 4)


def test_an_exception_is_logged_as_its_type_and_places() -> None:
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


def test_pythons_own_output_on_standard_error_holds_no_personal_data() -> None:
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
