"""`/health/ready` and `perennial status` on a real stack: work that stands still is told until it moves again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.settings import Settings
from tests.support.builders import user
from tests.support.events import event
from tests.support.little_stack import LittleStack, little_stack
from tests.support.processes import ROOT, PerennialProcess

pytestmark = pytest.mark.slow


@pytest.fixture
async def stack(
    database_url: str, key_file: Path, database: Database, tmp_path: Path
) -> AsyncIterator[LittleStack]:
    settings = Settings(
        environment="embedded",
        database_url=database_url,
        key_file=key_file,
        task_queue="health",
        metrics_address=f"127.0.0.1:{free_port()}",
        worker_graceful_shutdown_seconds=0,
    )
    async with little_stack(settings, tmp_path, apis=1) as running:
        yield running


async def until(client: httpx.AsyncClient, status: str, *codes: str, within: float = 60) -> dict[str, Any]:
    """Wait for a status with these reasons among others; return the answer."""
    answer: dict[str, Any] = {}
    try:
        async with asyncio.timeout(within):
            while True:
                response = await client.get("/health/ready", headers={"Authorization": ""})
                answer = response.json()
                if answer["status"] == status and reasons(answer) >= set(codes):
                    assert response.status_code == 200
                    return answer
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(answer) from None


def reasons(answer: dict[str, Any]) -> set[str]:
    return {each["code"] for each in answer.get("reasons", ())}


async def status(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "status", *arguments,
        cwd=ROOT, env={**os.environ, "COLUMNS": "160"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_events_without_a_worker_make_the_stack_degraded_until_one_runs(
    stack: LittleStack, database: Database, tmp_path: Path
) -> None:
    [address] = stack.addresses
    async with stack.clients(database) as [client]:
        assert "reasons" not in await until(client, "ready")
        code, shown = await status("--url", address)
        assert code == 0
        assert "ready" in shown
        (tmp_path / "endpoints.json").write_text(json.dumps({"api": address}))
        assert await status("--home", str(tmp_path)) == (0, shown)
        assert "temporal" in shown

        await stack.worker.end()
        await client.post("/users", json=user(consents={"data_collection": True}))
        assert (await client.post("/events", json=event())).status_code == 202
        answer = await until(client, "degraded", "projector_stands_still", "worker_missing")
        assert answer["checks"] == {"postgres": {"status": "ok"}, "temporal": {"status": "ok"}}
        assert "u-1" not in str(answer)
        code, shown = await status("--url", address)
        assert code == 1
        assert "projector_stands_still" in shown
        assert '"status":"degraded"' in (await status("--url", address, "--json"))[1]

        async with PerennialProcess("worker", stack.settings, tmp_path):
            await until(client, "ready")
    code, shown = await status("--url", "http://127.0.0.1:1")
    assert code == 2
    assert "does not answer" in shown
    assert (await status("--home", str(tmp_path / "none")))[0] == 2


async def test_an_idle_write_transaction_is_named_by_the_status_and_the_metrics(
    stack: LittleStack, database: Database, postgres: EmbeddedPostgres, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    [address] = stack.addresses
    idle = await asyncpg.connect(postgres.superuser_url, server_settings={"application_name": "nightly report"})
    async with stack.clients(database) as [client]:
        await until(client, "ready")
        await client.post("/users", json=user(consents={"data_collection": True}))
        await idle.execute("BEGIN; SELECT pg_current_xact_id()")
        assert (await client.post("/events", json=event())).status_code == 202
        await owner.execute("UPDATE events SET received_at = now() - interval '1 minute'")
        async with asyncio.timeout(30):  # it is named once it is two seconds old
            while "held_by" not in (answer := await until(client, "degraded", "log_behind")):
                await asyncio.sleep(0.2)
        assert (answer["held_by"]["application"], answer["held_by"]["state"]) == (
            "nightly report",
            "idle in transaction",
        )
        assert [each["events"] for each in answer["lag"]] == [1]
        code, shown = await status("--url", address)
        assert code == 1
        assert "nightly report" in shown
        assert "idle in transaction since" in shown
        async with httpx.AsyncClient(trust_env=False) as prometheus:
            text = (await prometheus.get(f"http://{stack.settings.metrics_address}/metrics")).text
        assert 'perennial_log_horizon_held_seconds{application="nightly report"' in text
        await idle.close()
        assert "held_by" not in await until(client, "ready")


async def test_a_running_stack_tells_that_its_schema_is_another(
    stack: LittleStack, database: Database, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with stack.clients(database) as [client]:
        await until(client, "ready")
        revision = await owner.fetchval("SELECT version_num FROM alembic_version")
        await owner.execute("UPDATE alembic_version SET version_num = '9999'")
        try:
            assert reasons(await until(client, "degraded")) == {"schema_newer"}
        finally:
            await owner.execute("UPDATE alembic_version SET version_num = $1", revision)
        await until(client, "ready")
