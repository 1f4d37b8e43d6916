"""The needs of Postgres, on real databases and roles that lack something."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import make_url

from checks import postgres
from checks.clocks import too_far_apart
from checks.start import before_migration, runtime_needs, wanted_schema
from checks.unmet import Unmet, UnmetError
from runtime import migrate
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.embedded.postgres_roles import APP_ROLE, OWNER_ROLE
from runtime.settings import Settings
from store.connection import Connection
from tests.checks.support import api_settings, ended


def in_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@pytest.fixture
async def superuser(postgres: EmbeddedPostgres) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(postgres.superuser_url)
    yield connection
    await connection.close()


@pytest.fixture
async def app(postgres: EmbeddedPostgres) -> AsyncIterator[Connection]:
    """A connection of the runtime role."""
    connection = await asyncpg.connect(postgres.runtime_url)
    yield connection
    await connection.close()


@pytest.fixture
async def spare(postgres: EmbeddedPostgres, superuser: Connection) -> AsyncIterator[Settings]:
    """An empty database of the owner beside the others."""
    await superuser.execute(f"CREATE DATABASE spare OWNER {OWNER_ROLE}")
    yield Settings(
        database_url=in_database(postgres.runtime_url, "spare"),
        migration_database_url=in_database(postgres.owner_url, "spare"),
    )
    await superuser.execute("DROP DATABASE spare WITH (FORCE)")


def codes(unmet: list[Unmet]) -> list[str]:
    return [each.code for each in unmet]


async def test_this_stack_meets_every_need(app: Connection, owner: Connection) -> None:
    assert await runtime_needs(app) == []
    assert await postgres.owner_rights(owner) == []
    assert await postgres.runtime_role(owner, APP_ROLE) == []
    assert await postgres.is_unprotected(app) is None
    assert await postgres.is_unprotected(owner) == OWNER_ROLE


async def test_an_older_server_is_named_with_the_version_that_is_needed(app: Connection) -> None:
    [unmet] = await postgres.server(app, 190_000)
    shown = await app.fetchval("SHOW server_version")
    assert unmet.code == "postgres_version"
    assert unmet.sentence == f"Postgres is version {shown.split()[0]}; Perennial needs 19 or newer."


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_migrate_refuses_a_database_of_another_encoding(
    postgres: EmbeddedPostgres, superuser: Connection, tmp_path: Path, encoding: str
) -> None:
    await superuser.execute(
        f"CREATE DATABASE narrow OWNER {OWNER_ROLE} ENCODING '{encoding}' TEMPLATE template0 "
        "LOCALE_PROVIDER libc LOCALE 'C'"
    )
    settings = Settings(
        database_url=in_database(postgres.runtime_url, "narrow"),
        migration_database_url=in_database(postgres.owner_url, "narrow"),
    )
    try:
        code, line = await ended("migrate", settings, tmp_path)
        left = await asyncpg.connect(settings.migration_database_url)
        tables = await left.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        await left.close()
    finally:
        await superuser.execute("DROP DATABASE narrow WITH (FORCE)")
    assert (code, tables) == (1, 0)
    assert line == (f"perennial: The database's encoding is {encoding}; Perennial needs a database with UTF8.")


async def test_a_read_only_database_is_refused(app: Connection) -> None:
    await app.execute("SET default_transaction_read_only = on")
    assert codes(await postgres.server(app)) == ["postgres_read_only"]


@pytest.mark.slow
async def test_each_missing_grant_of_the_runtime_role_is_named(
    postgres: EmbeddedPostgres, superuser: Connection, spare: Settings, tmp_path: Path
) -> None:
    await asyncio.to_thread(migrate.upgrade, spare)
    owner = await asyncpg.connect(spare.migration_database_url)
    await owner.execute(
        f"""REVOKE UPDATE ON users FROM {APP_ROLE}; REVOKE INSERT (fields) ON audit_log FROM {APP_ROLE};
            REVOKE USAGE ON SEQUENCE events_sequence FROM {APP_ROLE};
            REVOKE EXECUTE ON FUNCTION ensure_events_partition(date) FROM {APP_ROLE}, PUBLIC"""
    )
    await owner.close()
    code, line = await ended("api", api_settings(spare, tmp_path), tmp_path)
    assert code == 1
    assert line == (
        "perennial: The role of PERENNIAL_DATABASE_URL lacks USAGE on events_sequence, EXECUTE on "
        "ensure_events_partition(date), INSERT on audit_log.fields, UPDATE on users; it needs the rights that "
        "`perennial migrate` grants as the owner."
    )
    code, _ = await ended("migrate", spare, tmp_path)  # grants them again
    assert code == 0
    runtime = await asyncpg.connect(spare.database_url)
    assert await runtime_needs(runtime) == []
    await runtime.close()


async def test_a_schema_that_the_runtime_role_may_not_use_is_named(spare: Settings, superuser: Connection) -> None:
    await asyncio.to_thread(migrate.upgrade, spare)
    owner = await asyncpg.connect(spare.migration_database_url)
    await owner.execute(f"REVOKE USAGE ON SCHEMA public FROM {APP_ROLE}, PUBLIC")
    await owner.close()
    runtime = await asyncpg.connect(spare.database_url)
    [unmet] = await runtime_needs(runtime)
    await runtime.close()
    assert unmet.sentence.startswith("The role of PERENNIAL_DATABASE_URL lacks USAGE on schema public;")


@pytest.mark.parametrize(
    ("command", "change", "sentence"),
    [
        (
            "api",
            {"password": "wrong"},
            "Postgres refuses the role or the password of PERENNIAL_DATABASE_URL; Perennial needs a role that may "
            "connect.",
        ),
        (
            "migrate",
            {"database": "missing"},
            "Postgres has no database of the name in PERENNIAL_DATABASE_URL; Perennial needs one: create it.",
        ),
    ],
)
async def test_a_connection_that_postgres_refuses_is_told_at_once(
    spare: Settings, superuser: Connection, tmp_path: Path, command: str, change: dict[str, str], sentence: str
) -> None:
    url = make_url(spare.require_database_url())
    database = change.get("database", url.database)
    url = url.set(password=change.get("password", url.password), database=database)
    wrong = spare.model_copy(update={"database_url": url.render_as_string(hide_password=False)})
    if command == "migrate":
        wrong = wrong.model_copy(update={"migration_database_url": None})
    code, line = await ended(command, api_settings(wrong, tmp_path), tmp_path)
    assert (code, line) == (1, f"perennial: {sentence}")


async def test_a_role_without_any_grant_is_refused(spare: Settings, superuser: Connection) -> None:
    await asyncio.to_thread(migrate.upgrade, spare)
    owner = await asyncpg.connect(spare.migration_database_url)
    try:
        await superuser.execute("CREATE ROLE stranger")
        await superuser.execute(f"GRANT stranger TO {OWNER_ROLE}")
        await owner.execute("SET ROLE stranger")
        [unmet] = await runtime_needs(owner)
        assert "lacks SELECT on alembic_version;" in unmet.sentence
        await owner.execute("RESET ROLE; GRANT SELECT ON alembic_version TO stranger; SET ROLE stranger")
        [unmet] = await runtime_needs(owner)
        assert unmet.code == "runtime_role_rights"
        assert re.search(r"lacks USAGE on .+ and \d\d\d? more; it needs the rights", unmet.sentence)
    finally:
        await owner.execute("RESET ROLE; DROP OWNED BY stranger")
        await owner.close()
        await superuser.execute("DROP ROLE stranger")


@pytest.mark.slow
async def test_an_unmigrated_an_older_and_a_newer_schema_are_refused(spare: Settings, tmp_path: Path) -> None:
    settings = api_settings(spare, tmp_path)
    code, line = await ended("api", settings, tmp_path)
    assert (code, line) == (
        1,
        "perennial: The database has no schema of Perennial; run `perennial migrate`.",
    )
    await asyncio.to_thread(migrate.upgrade, spare)
    owner = await asyncpg.connect(spare.migration_database_url)
    try:
        await owner.execute("UPDATE alembic_version SET version_num = '9999'")
        code, line = await ended("api", settings, tmp_path)
        assert code == 1
        assert line.startswith(
            "perennial: The database is at migration 9999, which this version of Perennial doesn't know; it needs"
        )
        newer = postgres.Schema("9998", frozenset({"9998", "9999"}))
        [unmet] = await postgres.schema(owner, newer)
        assert unmet.code == "schema_older"
        assert unmet.sentence == (
            "The database is at migration 9999; this version of Perennial needs 9998: run `perennial migrate`."
        )
        await owner.execute("UPDATE alembic_version SET version_num = $1", wanted_schema().needed)
        assert await postgres.schema(owner, wanted_schema()) == []
    finally:
        await owner.close()


async def test_migrate_names_a_role_that_owns_nothing(spare: Settings, tmp_path: Path) -> None:
    await asyncio.to_thread(migrate.upgrade, spare)
    code, line = await ended("migrate", Settings(database_url=spare.database_url), tmp_path)
    assert code == 1
    assert line.startswith(f"perennial: The role {APP_ROLE} doesn't own ")
    assert line.endswith(
        "in the schema public of spare; migrations need the owner's role in PERENNIAL_MIGRATION_DATABASE_URL."
    )


async def test_migrate_names_a_runtime_role_that_does_not_exist(spare: Settings) -> None:
    nobody = spare.model_copy(update={"database_url": (spare.database_url or "").replace(APP_ROLE, "nobody")})
    with pytest.raises(UnmetError, match="The role nobody of PERENNIAL_DATABASE_URL doesn't exist"):
        await before_migration(nobody)


async def test_two_addresses_of_two_databases_are_refused(spare: Settings, postgres: EmbeddedPostgres) -> None:
    crossed = spare.model_copy(update={"database_url": postgres.runtime_url})
    with pytest.raises(UnmetError, match="name two databases"):
        await before_migration(crossed)


@pytest.mark.parametrize("off_by", [-90.0, 90.0])
async def test_a_clock_that_is_off_is_measured(app: Connection, off_by: float) -> None:
    seconds = await postgres.skew(app, lambda: time.time() + off_by)
    assert 89 < seconds <= 90
    [unmet] = too_far_apart(seconds, "Postgres")
    assert unmet == Unmet(
        "clock_skew", "The clocks of this process and Postgres differ by 90 s; Perennial needs 60 s or less."
    )
    assert await postgres.skew(app) < 1
    assert too_far_apart(60.0, "Postgres") == []
