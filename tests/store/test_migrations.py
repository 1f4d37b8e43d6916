"""The schema: in step with the tables, migrated by many at once, and closed to the runtime role."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

import asyncpg
import pytest
from alembic import command

from models.rules.engagement import LANDMARK, forward_weight
from models.tables.registry import TABLES
from runtime import migrate
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres, scratch_postgres
from runtime.migrate import SchemaDiffersError
from runtime.settings import ConfigurationError, Settings
from store.connection import Connection
from store.events import partitions
from store.events.partitions import PartitionState
from tests.support.processes import ROOT, environment_of


def settings_of(server: EmbeddedPostgres) -> Settings:
    return Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)


async def test_the_migrations_give_what_the_tables_declare(postgres: EmbeddedPostgres) -> None:
    await asyncio.to_thread(migrate.check, settings_of(postgres))


@pytest.mark.slow
async def test_migrators_at_once_take_turns_and_a_second_run_changes_nothing() -> None:
    async with scratch_postgres() as server:
        settings = settings_of(server)
        assert await asyncio.gather(*(_migrate_in_a_process(settings) for _ in range(3))) == [0, 0, 0]
        await asyncio.to_thread(migrate.upgrade, settings)
        await asyncio.to_thread(migrate.check, settings)
        owner = await asyncpg.connect(server.owner_url)
        try:
            await owner.execute("ALTER TABLE users ADD COLUMN extra text")
            with pytest.raises(SchemaDiffersError, match="extra"):
                await asyncio.to_thread(migrate.check, settings)
        finally:
            await owner.close()


@pytest.mark.slow
async def test_a_downgrade_removes_everything_and_the_schema_can_be_made_again() -> None:
    async with scratch_postgres() as server:
        settings = settings_of(server)
        await asyncio.to_thread(migrate.upgrade, settings)
        await asyncio.to_thread(command.downgrade, migrate._config(settings), "base")
        owner = await asyncpg.connect(server.owner_url)
        try:
            left = await owner.fetch(
                """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
                   UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"""
            )
            assert {row[0] for row in left} == {"alembic_version", "alembic_version_pkc"}
        finally:
            await owner.close()
        await asyncio.to_thread(migrate.upgrade, settings)
        await asyncio.to_thread(migrate.check, settings)


async def test_a_partition_that_was_detached_before_a_migration_can_be_attached_after_it() -> None:
    async with scratch_postgres() as server:
        settings = settings_of(server)
        config = migrate._config(settings)
        await asyncio.to_thread(command.upgrade, config, "0008")
        owner = await asyncpg.connect(server.owner_url)
        try:
            await owner.execute("SELECT ensure_events_partition(DATE '2026-01-01')")
            await owner.execute("ALTER TABLE events DETACH PARTITION events_2026_01")
            await asyncio.to_thread(migrate.upgrade, settings)
            [found] = await partitions.find_all(owner)
            await partitions.attach(owner, found)
            assert await partitions.state_of(owner, "events_2026_01") is PartitionState.ATTACHED
        finally:
            await owner.close()


@pytest.mark.slow
async def test_a_migration_finds_first_purchases_as_far_as_they_are_stored() -> None:
    async with scratch_postgres() as server:
        settings = settings_of(server)
        await asyncio.to_thread(command.upgrade, migrate._config(settings), "0017")
        owner = await asyncpg.connect(server.owner_url)
        try:
            await owner.execute(
                """INSERT INTO transactions (event_id, user_id, kind, amount, currency, occurred_at)
                   VALUES ('e-1', 'u-1', 'purchase', 1, 'USD', '2026-03-01Z'),
                          ('e-2', 'u-1', 'purchase', 1, 'USD', '2026-02-01Z'),
                          ('e-3', 'u-1', 'refund', 1, 'USD', '2026-01-01Z'),
                          ('e-4', 'u-2', 'purchase', 1, 'USD', '2026-01-01Z')"""
            )
            await owner.execute(
                """INSERT INTO purchase_totals (user_id, currency, purchases, revenue, last_purchase_at)
                   VALUES ('u-1', 'USD', 2, 1, '2026-03-01Z'), ('u-1', 'EUR', 3, 9, '2025-05-05Z'),
                          ('u-1', 'JPY', 0, -9, NULL)"""
            )
            await asyncio.to_thread(migrate.upgrade, settings)
            found = await owner.fetch(
                "SELECT first_purchase_at::date::text FROM purchase_totals ORDER BY currency"
            )
            assert [row[0] for row in found] == ["2025-05-05", None, "2026-02-01"]
        finally:
            await owner.close()


async def test_stored_sessions_get_their_weights_and_go_back_into_one_row() -> None:
    """The weights of the migration are those that the projector subtracts when it joins visits."""
    starts = [
        *(LANDMARK + timedelta(hours=37, microseconds=1) * number for number in range(-40, 400)),
        LANDMARK,
        LANDMARK - timedelta(days=14 * 900),
    ]
    async with scratch_postgres() as server:
        settings = settings_of(server)
        config = migrate._config(settings)
        await asyncio.to_thread(command.upgrade, config, "0020")
        owner = await asyncpg.connect(server.owner_url)
        try:
            await owner.executemany(
                "INSERT INTO sessions VALUES ($1, 's', $2, $2)",
                [(f"u-{number}", at) for number, at in enumerate(starts)],
            )
            await owner.execute("INSERT INTO sessions SELECT user_id, 't', first_at, last_at FROM sessions")
            await owner.execute("INSERT INTO user_activity (user_id) SELECT DISTINCT user_id FROM sessions")
            await asyncio.to_thread(command.upgrade, config, "0021")
            rows = await owner.fetch("SELECT user_id, decayed_sessions, decayed_actions FROM user_activity")
            assert {row[0]: (int(row[1]), int(row[2])) for row in rows} == {
                f"u-{number}": (2 * forward_weight(at), 0) for number, at in enumerate(starts)
            }
            await owner.execute("DELETE FROM sessions WHERE user_id <> 'u-0' OR session_id <> 's'")
            later = starts[0] + timedelta(hours=2)
            await owner.execute("INSERT INTO sessions VALUES ('u-0', 's', $1, $1)", later)
            await asyncio.to_thread(command.downgrade, config, "0020")
            assert [tuple(row) for row in await owner.fetch("SELECT * FROM sessions")] == [
                ("u-0", "s", starts[0], later)
            ]
        finally:
            await owner.close()


async def test_a_database_of_an_unknown_revision_is_one_sentence() -> None:
    async with scratch_postgres() as server:
        settings = settings_of(server)
        await asyncio.to_thread(migrate.upgrade, settings)
        owner = await asyncpg.connect(server.owner_url)
        await owner.execute("UPDATE alembic_version SET version_num = '9999'")
        await owner.close()
        with pytest.raises(ConfigurationError, match="Another version of Perennial made this database"):
            await asyncio.to_thread(migrate.upgrade, settings)


async def test_the_schema_has_what_no_comparison_with_the_tables_sees(database: Database) -> None:
    async with database.connection() as connection:
        storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'events'::regclass AND attname = 'body'"
        assert await connection.fetchval(storage) == b"e"  # EXTERNAL: ciphertext doesn't compress
        limiter = await connection.fetchrow(
            "SELECT relpersistence, reloptions FROM pg_class WHERE oid = 'rate_windows'::regclass"
        )
        assert limiter is not None
        assert (limiter["relpersistence"], limiter["reloptions"]) == (b"u", ["fillfactor=50"])
        assert (
            await connection.fetchval(
                "SELECT seqcache FROM pg_sequence WHERE seqrelid = 'events_sequence'::regclass"
            )
            == 100
        )
        functions = await connection.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
        )
        assert {row[0] for row in functions} == {
            "ensure_events_partition",
            "expire_audit_hour",
            "log_horizon_holder",
        }
        columns = await connection.fetch(
            """SELECT attname FROM pg_attribute
                WHERE attrelid = 'audit_log'::regclass AND attnum > 0 ORDER BY attnum"""
        )
        assert [row[0] for row in columns][:3] == ["audit_id", "xid", "occurred_at"]  # the id before the clock


async def _migrate_in_a_process(settings: Settings) -> int:
    environment = environment_of(settings)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "migrate", cwd=ROOT, env=environment
    )
    return await process.wait()


@pytest.mark.slow
async def test_the_owner_may_serve_as_well() -> None:
    async with scratch_postgres() as server:
        await asyncio.to_thread(migrate.upgrade, Settings(database_url=server.owner_url))


APPEND_ONLY = {"SELECT", "INSERT"}
ERASABLE = {"SELECT", "INSERT", "DELETE"}
NARROWER = {
    "consent_history": APPEND_ONLY,
    "audit_log": {"SELECT"},  # and to insert, by columns
    "audit_checkpoints": APPEND_ONLY,
    "events": ERASABLE,  # and to change two columns
    "event_ids": ERASABLE,
    "event_type_versions": APPEND_ONLY,
    "log_generation": {"SELECT", "UPDATE"},
}


async def test_the_runtime_role_may_do_its_work_and_nothing_else(database: Database) -> None:
    async with database.connection() as connection:
        for table in TABLES:
            name = table.__table__.name  # type: ignore[attr-defined]
            rights = {
                right
                for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "REFERENCES")
                if await connection.fetchval("SELECT has_table_privilege($1, $2)", name, right)
            }
            ordinary = {"SELECT", "INSERT", "UPDATE", "DELETE"}
            assert rights == NARROWER.get(name, ordinary), name


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (x int)",
        "DROP TABLE users",
        "ALTER TABLE users ADD COLUMN x int",
        "TRUNCATE users",
        "UPDATE consent_history SET granted = true",
        "DELETE FROM consent_history",
        "UPDATE event_type_versions SET actor = 'nobody'",
        "DELETE FROM event_type_versions",
        "UPDATE audit_log SET actor = 'nobody'",
        "DELETE FROM audit_log",
        "INSERT INTO audit_log (occurred_at, actor, role, action, outcome) VALUES (now(), 'a', 'b', 'c', 'd')",
        "TRUNCATE audit_log",
        "UPDATE audit_checkpoints SET rows = 0",
        "DELETE FROM audit_checkpoints",
        "UPDATE events SET user_id = 'nobody'",
        "UPDATE events SET xid = '1', sequence = 1",
        "UPDATE alembic_version SET version_num = 'x'",
    ],
)
async def test_the_runtime_role_is_refused(database: Database, statement: str) -> None:
    async with database.connection() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_rights_that_were_added_by_hand_go_with_the_next_migration(
    postgres: EmbeddedPostgres, owner: Connection, database: Database
) -> None:
    await owner.execute("GRANT DELETE ON consent_history TO perennial_app")
    await asyncio.to_thread(migrate.upgrade, settings_of(postgres))
    async with database.connection() as connection:
        assert not await connection.fetchval("SELECT has_table_privilege('consent_history', 'DELETE')")
