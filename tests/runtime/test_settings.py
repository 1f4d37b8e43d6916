"""Bad configuration stops the start with one sentence, which never repeats what was set."""

from __future__ import annotations

import os
import subprocess
import sys

import asyncpg
import pytest

from runtime.database import Database, DatabaseUnreachable
from tests.support.processes import ROOT

KEPT = {name: value for name, value in os.environ.items() if not name.startswith("PERENNIAL_")}
UNREACHABLE = "postgresql://nobody:s3cret@127.0.0.1:1/nowhere"


def perennial(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command with settings of its own."""
    given = {f"PERENNIAL_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env={**KEPT, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["api", "worker", "dev"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "s3cret"),
        ("DATABASE_URL", "mysql://host/s3cret"),
        ("TEMPORAL_ADDRESS", "no s3cret address"),
        ("SMTP_URL", "smtp://s3cret:99999"),
        ("TASK_QUEUE", ""),
        ("LOG_LEVEL", "s3cret"),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start(command: str, name: str, value: str) -> None:
    done = perennial(command, **{name: value})
    assert done.returncode != 0
    [sentence] = done.stderr.splitlines()
    assert f"PERENNIAL_{name}" in sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize("arguments", [["migrate"], ["keys", "list"]])
def test_a_database_that_does_not_answer_is_one_sentence(arguments: list[str]) -> None:
    done = perennial(*arguments, DATABASE_URL=UNREACHABLE)
    assert done.returncode != 0
    [sentence] = done.stderr.splitlines()
    assert "database" in sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize(
    "sign", [asyncpg.InternalClientError("gone"), asyncpg.CrashShutdownError("gone"), ConnectionResetError()]
)
async def test_whatever_a_dying_postgres_makes_the_driver_raise_is_its_absence(
    pool: Database, sign: Exception
) -> None:
    with pytest.raises(DatabaseUnreachable):
        async with pool.connection():
            raise sign
