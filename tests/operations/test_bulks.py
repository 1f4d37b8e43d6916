"""`perennial execute` through the API into Temporal, and `kill -9` between the commit of a bulk and its starts."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from rich.console import Console

from clients import bulks
from clients.bulks import ExecuteOptions, run_execute
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.embedded.postgres import EmbeddedPostgres
from store.connection import Connection
from tests.support.builders import user
from tests.support.little_stack import LittleStack
from tests.support.processes import PerennialProcess

SHORT = {"first_activity_within": "PT0.1S", "nudge_within": "PT0.1S"}
WITHIN = 120.0
"""A killed worker's activities time out after six seconds; the rest is for a machine with other work."""


async def create(client: httpx.AsyncClient, number: int) -> list[str]:
    user_ids = [f"u-{each}" for each in range(number)]
    assert (
        await client.post("/users/batch", json={"users": [user(each) for each in user_ids]})
    ).status_code == 200
    return user_ids


async def until_completed(client: httpx.AsyncClient, bulk_id: str, number: int) -> None:
    async with asyncio.timeout(WITHIN):
        while True:
            found = (await client.get(f"/workflows/onboarding/bulks/{bulk_id}")).json()
            if found["statuses"]["completed"] == number:
                return
            await asyncio.sleep(0.05)


class Command:
    """`perennial execute` with the key of a client."""

    def __init__(self, client: httpx.AsyncClient, users: Path) -> None:
        self._common: dict[str, Any] = {
            "users": users,
            "url": str(client.base_url),
            "key": client.headers["authorization"].removeprefix("Bearer "),
        }

    async def __call__(self, workflow_id: str = "onboarding", **options: Any) -> tuple[int, str, str]:
        """The exit code, the output and the errors."""
        output, errors = io.StringIO(), io.StringIO()
        code = await asyncio.to_thread(
            run_execute,
            ExecuteOptions(workflow_id, **{**self._common, **options}),
            output=Console(file=output, width=200),
            errors=Console(file=errors, width=200),
        )
        return code, output.getvalue(), errors.getvalue()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulks, "MAX_BATCH", 3)


async def test_the_command_executes_a_workflow_for_the_users_of_a_file_and_a_second_run_starts_nobody(
    two: list[httpx.AsyncClient], tmp_path: Path, small_batches: None, database: Database
) -> None:
    await create(two[0], 5)
    users = tmp_path / "people.csv"
    users.write_text(
        "name;user_id\nAda;u-0\nBob; u-1\n;u-2\n\nAda;u-0\nEve;u-9\nEve;eve@example.com\nF;u-3\nG;u-4\n"
    )
    execute = Command(two[0], users)
    code, output, errors = await execute(parameters=SHORT, per_second=100)
    assert (code, errors) == (1, "")
    assert "8 users, 5 started, 3 rejected." in output
    with (tmp_path / "people.rejects.csv").open(newline="") as file:
        rejects = [(row["user_id"], row["line"], row["code"]) for row in csv.DictReader(file)]
    assert rejects == [
        ("u-0", "6", "duplicate_user"),
        ("eve@example.com", "8", "user_id_is_personal"),
        ("u-9", "7", "user_unknown"),
    ]
    bulk_ids = [line.split()[1].rstrip(":") for line in output.splitlines() if line.startswith("bulk ")]
    assert len(bulk_ids) == 2
    await until_completed(two[1], bulk_ids[0], 3)
    await until_completed(two[1], bulk_ids[1], 2)

    code, output, _ = await execute(parameters=SHORT, per_second=100)
    assert (code, "2 bulks were sent before and started nobody again" in output) == (1, True)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM instances") == 5
    code, output, _ = await execute(parameters=SHORT, per_second=100, again=True)
    assert "8 users, 0 started, 8 rejected." in output, "an account has one onboarding"


async def test_the_command_reads_an_id_from_each_line_and_sends_nothing_in_a_dry_run(
    two: list[httpx.AsyncClient], tmp_path: Path, database: Database
) -> None:
    users = tmp_path / "people.txt"
    users.write_text("\ufeffu-1\nu-2\n\nu-1\n")
    code, output, _ = await Command(two[0], users)(dry_run=True, url="", key="")
    assert (code, output.splitlines()[-2]) == (1, "3 users, 1 rejected. Nothing was sent.")
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM instances") == 0


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ("u-1\n", {"parameters": {"nudge_within": "soon"}}, "/parameters/nudge_within"),
        ("u-1\n", {"workflow_id": "nothing"}, "404"),
        ("u-1\n", {"key": "prn_wrong"}, "doesn't know this key"),
        ("name,id\nAda,u-1\n", {}, "has no column 'user_id'"),
    ],
)
async def test_a_run_that_can_not_start_says_why_in_one_sentence(
    two: list[httpx.AsyncClient], tmp_path: Path, content: str, options: dict[str, Any], sentence: str
) -> None:
    users = tmp_path / "people.csv"
    users.write_text(content)
    code, _, errors = await Command(two[0], users)(**options)
    assert code == 2
    [line] = errors.splitlines()
    assert sentence in line


@pytest.fixture
async def worker(stack: LittleStack) -> AsyncIterator[PerennialProcess]:
    """The stack's worker, to be killed; it runs again after the test."""
    yield stack.worker
    await stack.worker.end()
    await stack.worker.start()


@pytest.mark.slow
async def test_a_bulk_loses_no_start_and_makes_none_twice_when_api_and_worker_die(
    stack: LittleStack,
    two: list[httpx.AsyncClient],
    worker: PerennialProcess,
    postgres: EmbeddedPostgres,
    owner: Connection,
    tmp_path: Path,
) -> None:
    """The API dies after the commit, and a worker after its first calls to Temporal, before it removes entries."""
    user_ids = await create(two[0], 12)
    await kill(worker)
    dying = stack.settings.model_copy(update={"api_port": free_port()})
    async with PerennialProcess("api", dying, tmp_path) as api:
        url = f"http://127.0.0.1:{dying.api_port}/workflows/onboarding/execute/batch"
        body = {"user_ids": user_ids, "parameters": SHORT, "per_second": 100}
        answer = await two[0].post(url, json=body)
        await kill(api)
    assert answer.json()["started"] == len(user_ids)

    async with owner.transaction():
        await owner.execute("SELECT FROM temporal_outbox FOR UPDATE")
        await worker.start()
        await until_blocked(postgres, owner.get_server_pid(), lambda: kill(worker))
    assert await owner.fetchval("SELECT count(*) FROM temporal_outbox WHERE kind = 'execute'") == len(user_ids)
    await worker.start()
    await until_completed(two[0], answer.json()["bulk_id"], len(user_ids))
    messages = await owner.fetch("SELECT template, count(*) FROM messages GROUP BY template")
    assert {row["count"] for row in messages} == {len(user_ids)}


async def kill(process: PerennialProcess) -> None:
    process.kill()
    await process.wait()


async def until_blocked(postgres: EmbeddedPostgres, pid: int, call: Callable[[], Awaitable[None]]) -> None:
    """Call a function once a session blocks others. Then end these, which go on without their clients."""
    superuser = await asyncpg.connect(postgres.superuser_url)
    try:
        blocked = "SELECT pid FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"
        async with asyncio.timeout(WITHIN):
            while not await superuser.fetch(blocked, pid):
                await asyncio.sleep(0.02)
        await call()
        while pids := await superuser.fetch(blocked, pid):
            for row in pids:
                await superuser.execute("SELECT pg_terminate_backend($1)", row["pid"])
    finally:
        await superuser.close()
