import asyncio
import os
import re
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import psutil
import pytest

from runtime.embedded.home import Home
from runtime.embedded.parts import StackError
from runtime.embedded.ports import port_is_free
from runtime.embedded.postgres import EmbeddedPostgres
from tests.embedded.directories import temporary_directory


async def ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(url, ssl=False)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    with temporary_directory() as path:
        async with EmbeddedPostgres(Home(path / "some" / "home"), durable=False) as running:
            yield running


async def test_postgres_keeps_its_data_and_its_port_over_a_restart(home: Home) -> None:
    postgres = EmbeddedPostgres(home, durable=False)
    await postgres.start()
    port = postgres.port
    await ask(postgres.owner_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    await postgres.stop()
    assert postgres.pid is None
    assert port_is_free(port)

    async with EmbeddedPostgres(home, durable=False) as again:
        assert again.port == port
        assert await ask(again.owner_url, "SELECT answer FROM kept") == 42


@pytest.mark.slow
async def test_a_killed_postgres_starts_again_on_its_port_with_what_was_committed(home: Home) -> None:
    async with EmbeddedPostgres(home) as postgres:
        await ask(postgres.owner_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        port, pid = postgres.port, postgres.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await postgres.wait() == -signal.SIGKILL
        await postgres.start()
        assert (postgres.port, postgres.pid != pid) == (port, True)
        assert await ask(postgres.owner_url, "SELECT answer FROM kept") == 42


@pytest.mark.slow
async def test_another_port_is_taken_when_the_remembered_one_is_not_free(home: Home) -> None:
    async with EmbeddedPostgres(home, durable=False) as postgres:
        port = postgres.port
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
    async with server, EmbeddedPostgres(home, durable=False) as again:
        assert again.port != port


async def test_neither_role_is_a_superuser_and_the_serving_role_can_create_nothing(
    postgres: EmbeddedPostgres,
) -> None:
    powers = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    assert await ask(postgres.runtime_url, powers) is False
    assert await ask(postgres.owner_url, powers) is False
    for statement in ("CREATE TABLE mine (x int)", "CREATE TEMP TABLE mine (x int)", "CREATE SCHEMA mine"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ask(postgres.runtime_url, statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ask(postgres.runtime_url.removesuffix("perennial") + "postgres", "SELECT 1")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(re.sub(":[0-9a-f]+@", ":guessed@", postgres.runtime_url), "SELECT 1")


async def test_text_is_utf_8_and_sorts_the_same_on_every_machine(postgres: EmbeddedPostgres) -> None:
    assert await ask(postgres.runtime_url, "SHOW server_encoding") == "UTF8"
    assert await ask(postgres.runtime_url, "SELECT lower('ÄÖ')") == "äö"
    locale = "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = 'perennial'"
    assert await ask(postgres.runtime_url, locale) == "bC.UTF-8"
    assert await ask(postgres.runtime_url, "SHOW data_checksums") == "on"


async def test_the_log_holds_nothing_that_clients_send(postgres: EmbeddedPostgres) -> None:
    canary = "ada.canary@example.com"
    connection = await asyncpg.connect(postgres.owner_url, ssl=False)
    await connection.execute("CREATE TABLE people (email text PRIMARY KEY)")
    await connection.execute("INSERT INTO people VALUES ($1)", canary)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("INSERT INTO people VALUES ($1)", canary)
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await connection.execute(f"SELECT '{canary}'::int")
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await connection.execute(f"SELEC '{canary}'")
    await connection.close()
    assert "ready to accept connections" in postgres.log_file.read_text()
    assert canary not in postgres.log_file.read_text()


async def test_secrets_logs_and_data_are_closed_to_other_users(postgres: EmbeddedPostgres) -> None:
    home = Home(postgres.log_file.parents[1])
    for file in (*home.secrets.iterdir(), *home.logs.iterdir()):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for directory in (home.secrets, home.logs, home.run, home.postgres_data, home.temporal):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory
    assert stat.S_IMODE(home.path.stat().st_mode) & ~0o001 == 0o700


@pytest.mark.slow
async def test_a_postmaster_that_a_killed_run_left_is_stopped_first(
    home: Home, lingering: Callable[[EmbeddedPostgres], psutil.Process]
) -> None:
    first = EmbeddedPostgres(home, durable=False)
    await first.start()
    left = lingering(first)
    async with EmbeddedPostgres(home, durable=False) as second:
        assert second.pid != left.pid
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
        assert await ask(second.runtime_url, "SELECT 1") == 1
    await first.wait()


@pytest.fixture
def lingering() -> Callable[[EmbeddedPostgres], psutil.Process]:
    """Returns the postmaster's process, which the test leaves running."""
    return lambda postgres: psutil.Process(postgres.pid)


@pytest.mark.slow
async def test_an_interrupted_initialisation_is_repeated(home: Home) -> None:
    half = home.postgres_data.with_name("postgres.new")
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(home, durable=False) as postgres:
        assert await ask(postgres.runtime_url, "SELECT 1") == 1
    assert not half.exists()


async def test_data_of_another_version_is_rejected_in_a_sentence(home: Home) -> None:
    home.postgres_data.mkdir()
    (home.postgres_data / "PG_VERSION").write_text("17\n")
    with pytest.raises(StackError, match="holds data of PostgreSQL 17"):
        await EmbeddedPostgres(home).start()


@pytest.mark.slow
async def test_a_lost_password_is_named_in_a_sentence(home: Home) -> None:
    async with EmbeddedPostgres(home, durable=False):
        pass
    shutil.rmtree(home.secrets)
    home.secrets.mkdir()
    with pytest.raises(StackError, match="does not hold the password"):
        await EmbeddedPostgres(home, durable=False).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_an_ordinary_user_can_run_it(open_directory: Path) -> None:
    script = (
        "import asyncio, pathlib, sys\n"
        "from runtime.embedded.home import Home\n"
        "from runtime.embedded.postgres import EmbeddedPostgres\n"
        "async def main():\n"
        "    async with EmbeddedPostgres(Home(pathlib.Path(sys.argv[1])), durable=False) as postgres:\n"
        "        print('pid', postgres.pid)\n"
        "asyncio.run(main())\n"
    )
    if not _others_can_run(Path(sys.executable)):
        pytest.skip("this Python is closed to other users")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(open_directory / "home"),
        cwd=Path(__file__).parents[2], user="nobody", group="nogroup", extra_groups=[],
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert (process.returncode, output[:4]) == (0, b"pid ")


@pytest.fixture
def open_directory(directory: Path) -> Path:
    directory.chmod(0o777)
    return directory


def _others_can_run(program: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in program.resolve().parents)
