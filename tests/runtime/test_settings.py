"""A bad setting stops the start with one sentence, which never repeats the value."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from runtime.database import Database, DatabaseUnreachableError
from runtime.settings import ConfigurationError, load_settings
from tests.support.processes import ROOT

UNREACHABLE = "postgresql://nobody:s3cret@127.0.0.1:1/nowhere"


def perennial(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command with these settings alone."""
    given = {f"PERENNIAL_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("api", "DATABASE_URL", "s3cret"),
        ("worker", "DATABASE_URL", "mysql://host/s3cret"),
        ("dev", "TEMPORAL_ADDRESS", "no s3cret address"),
        ("worker", "SMTP_URL", "smtp://s3cret:99999"),
        ("api", "TASK_QUEUE", ""),
        ("dev", "LOG_LEVEL", "s3cret"),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start(command: str, name: str, value: str) -> None:
    """Each command loads all settings first, so that each setting needs one command."""
    done = perennial(command, **{name: value})
    assert done.returncode != 0
    [sentence] = done.stderr.splitlines()
    assert f"PERENNIAL_{name}" in sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_FROM", "s3cret"),
        ("SMTP_FROM", "@s3cret"),
        ("OTLP_ENDPOINT", "s3cret:4318"),
        ("TEMPORAL_UI_URL", "ftp://s3cret"),
        ("WORKER_GRACEFUL_SHUTDOWN_SECONDS", "inf"),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("API_PORT", "65536"),
        ("ENVIRONMENT", "s3cret"),
        ("MAX_BODY_BYTES", "s3cret"),
        ("SESSION_TIMEOUT", "s3cret"),
        ("SESSION_TIMEOUT", "P1M"),
        ("SESSION_TIMEOUT", "nan"),
        ("SESSION_TIMEOUT", "PT0S"),
        ("SESSION_TIMEOUT", "P8D"),
        ("SESSION_TIMEOUT", "1800"),
        ("STAGE_AT_RISK_AFTER", "s3cret"),
        ("STAGE_AT_RISK_AFTER", "14"),
        ("STAGE_CHURNED_AFTER", "P3M"),
        ("STAGE_CHURNED_AFTER", "P30D"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PERENNIAL_{name}", value)
    with pytest.raises(ConfigurationError, match=rf"PERENNIAL_{name} can't be used: .+\.") as raised:
        load_settings()
    assert "s3cret" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(("value", "minutes"), [("PT45M", 45), ("P1DT30M", 1470), ("P1W", 10_080)])
def test_a_duration_is_iso_8601(value: str, minutes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_SESSION_TIMEOUT", value)
    assert load_settings().session_timeout == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("command", "content"), [("api", None), ("worker", None), ("api", "s3cret"), ("api", "{}")]
)
def test_a_key_file_that_cannot_be_used_stops_the_start(tmp_path: Path, command: str, content: str | None) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    done = perennial(command, DATABASE_URL=UNREACHABLE, KEY_FILE=str(file), API_PORT="0")
    assert done.returncode != 0
    [sentence] = done.stderr.splitlines()
    assert "key file" in sentence
    assert "s3cret" not in sentence


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, "s3cret"])
def test_a_certificate_that_cannot_be_used_stops_the_start(
    tmp_path: Path, key_file: Path, content: str | None
) -> None:
    file = tmp_path / "tls.pem"
    if content is not None:
        file.write_text(content)
    done = perennial(
        "api", DATABASE_URL=UNREACHABLE, KEY_FILE=str(key_file), API_PORT="0", TLS_CERTIFICATE=str(file)
    )
    assert done.returncode != 0
    [sentence] = done.stderr.splitlines()
    assert "PERENNIAL_TLS_CERTIFICATE" in sentence
    assert "s3cret" not in sentence


@pytest.mark.slow
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
async def test_each_error_of_the_driver_during_a_crash_of_postgres_means_unreachable(
    pool: Database, sign: Exception
) -> None:
    with pytest.raises(DatabaseUnreachableError):
        async with pool.connection():
            raise sign
