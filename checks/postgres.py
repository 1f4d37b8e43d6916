"""The needs of Postgres: version, encoding, a writable primary, rights of both roles, schema, clock.

Every function returns the unmet needs; none if all is well. The statements also run on older versions of Postgres.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import asyncpg

from checks.unmet import Unmet, named
from models.tables.rights import FUNCTIONS, SEQUENCES, TABLE_RIGHTS
from store.connection import Connection
from store.statements import sql

NEEDED_VERSION = 180_000
"""``server_version_num`` of PostgreSQL 18, the first with ``old`` and ``new`` in RETURNING."""
NEEDED_ENCODING = "UTF8"

# SQL text: functions of the catalogue.
_SERVER = sql(
    """SELECT CAST(current_setting('server_version_num') AS integer) AS version,
              current_setting('server_version') AS shown,
              pg_encoding_to_char(encoding) AS encoding, pg_is_in_recovery() AS standby,
              current_setting('default_transaction_read_only') = 'on' AS read_only
         FROM pg_database WHERE datname = current_database()"""
)
_CLOCK = sql("SELECT clock_timestamp()")
_MAY_USE_SCHEMA = sql("SELECT has_schema_privilege('public', 'USAGE')")
_MAY_READ_REVISION = sql(
    """SELECT to_regclass('public.alembic_version') IS NOT NULL AS present,
              coalesce(has_table_privilege(to_regclass('public.alembic_version'), 'SELECT'), false) AS allowed"""
)
_REVISION = sql("SELECT version_num FROM public.alembic_version")
_MISSING_TABLE_RIGHTS = sql(
    """SELECT given.verb || ' on ' || given.relation || coalesce('.' || given.col, '') AS missing
         FROM unnest(CAST(:relations AS text[]), CAST(:cols AS text[]), CAST(:verbs AS text[]))
              AS given (relation, col, verb)
         JOIN pg_class c ON c.relname = given.relation AND c.relnamespace = CAST('public' AS regnamespace)
        WHERE NOT CASE WHEN given.col IS NULL THEN has_table_privilege(c.oid, given.verb)
                       ELSE has_column_privilege(c.oid, given.col, given.verb) END
        ORDER BY missing"""
)
_MISSING_OTHER_RIGHTS = sql(
    """SELECT 'USAGE on schema public' AS missing WHERE NOT has_schema_privilege('public', 'USAGE')
       UNION ALL
       SELECT 'USAGE on ' || name FROM unnest(CAST(:sequences AS text[])) AS given (name)
        WHERE NOT has_sequence_privilege(to_regclass('public.' || name), 'USAGE')
       UNION ALL
       SELECT 'EXECUTE on ' || name FROM unnest(CAST(:functions AS text[])) AS given (name)
        WHERE NOT has_function_privilege(to_regprocedure('public.' || name), 'EXECUTE')"""
)
_OWNER = sql(
    """SELECT current_user AS role, current_database() AS database,
              has_schema_privilege('public', 'CREATE') AS may_create,
              ARRAY(SELECT c.relname FROM pg_class c
                     WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relname = ANY (:tables)
                       AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY c.relname) AS not_owned"""
)
_RUNTIME_ROLE = sql(
    """SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role) AS present,
              coalesce((SELECT has_database_privilege(oid, current_database(), 'CONNECT')
                          FROM pg_roles WHERE rolname = :role), false) AS may_connect"""
)
_IDENTITY = sql(
    """SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster, oid AS database
         FROM pg_database WHERE datname = current_database()"""
)
_WHO = sql(
    """SELECT current_user AS role, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
              pg_has_role(c.relowner, 'USAGE') AS owns
         FROM pg_class c WHERE c.oid = to_regclass('public.audit_log')"""
)


def refusal(error: BaseException | None, setting: str) -> Unmet | None:
    """The unmet need if Postgres answers and refuses a connection; None for any other error."""
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        text = f"Postgres has no database of the name in {setting}; Perennial needs one: create it."
        return Unmet("database_missing", text)
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        text = f"Postgres refuses the role or the password of {setting}; Perennial needs a role that may connect."
        return Unmet("postgres_refuses", text)
    return None


@dataclass(frozen=True)
class Schema:
    """The migration that this version of the program needs, and all that it knows."""

    needed: str
    known: frozenset[str]


async def server(connection: Connection, needed_version: int = NEEDED_VERSION) -> list[Unmet]:
    """Version, encoding, and whether the server takes writes."""
    [found] = await _SERVER.fetch(connection)
    unmet = []
    if found["version"] < needed_version:
        unmet.append(
            Unmet(
                "postgres_version",
                f"Postgres is version {found['shown'].split()[0]}; Perennial needs {needed_version // 10_000} "
                "or newer.",
            )
        )
    if found["encoding"] != NEEDED_ENCODING:
        unmet.append(
            Unmet(
                "postgres_encoding",
                f"The database's encoding is {found['encoding']}; Perennial needs a database with "
                f"{NEEDED_ENCODING}.",
            )
        )
    if found["standby"] or found["read_only"]:
        state = "is a standby" if found["standby"] else "is read-only by default"
        unmet.append(
            Unmet("postgres_read_only", f"The database {state}; Perennial needs a primary that takes writes.")
        )
    return unmet


async def schema(connection: Connection, wanted: Schema) -> list[Unmet]:
    """Whether the schema is at the migration that this version needs: none older, none newer."""
    if not await _MAY_USE_SCHEMA.fetchval(connection):  # first: `to_regclass` fails without it
        return [_lacking(["USAGE on schema public"])]
    [found] = await _MAY_READ_REVISION.fetch(connection)
    if not found["present"]:
        return [Unmet("schema_missing", "The database has no schema of Perennial; run `perennial migrate`.")]
    if not found["allowed"]:
        return [_lacking(["SELECT on alembic_version"])]
    revision = await _REVISION.fetchval(connection)
    if revision == wanted.needed:
        return []
    if revision is None or revision in wanted.known:
        return [
            Unmet(
                "schema_older",
                f"The database is at migration {revision or 'none'}; this version of Perennial needs "
                f"{wanted.needed}: run `perennial migrate`.",
            )
        ]
    return [
        Unmet(
            "schema_newer",
            f"The database is at migration {revision}, which this version of Perennial doesn't know; it needs "
            f"{wanted.needed}: run the version that migrated the database.",
        )
    ]


async def runtime_rights(connection: Connection) -> list[Unmet]:
    """The rights of this connection's role to the tables. The schema must be the needed one."""
    relations, columns, verbs = zip(*_wanted_rights(), strict=True)
    tables = await _MISSING_TABLE_RIGHTS.fetch(
        connection, relations=list(relations), cols=list(columns), verbs=list(verbs)
    )
    others = await _MISSING_OTHER_RIGHTS.fetch(connection, sequences=list(SEQUENCES), functions=list(FUNCTIONS))
    missing = [row["missing"] for row in (*others, *tables)]
    return [_lacking(missing)] if missing else []


def _lacking(missing: list[str]) -> Unmet:
    return Unmet(
        "runtime_role_rights",
        f"The role of PERENNIAL_DATABASE_URL lacks {named(missing)}; it needs the rights that "
        "`perennial migrate` grants as the owner.",
    )


def _wanted_rights() -> Iterable[tuple[str, str | None, str]]:
    """(table, column or None, right)."""
    for table, rights in TABLE_RIGHTS.items():
        for right in rights:
            verb, _, columns = right.partition(" (")
            for column in columns.rstrip(")").split(", "):
                yield table, column or None, verb


async def owner_rights(connection: Connection) -> list[Unmet]:
    """Whether this connection's role may migrate: it creates tables, and owns those that exist."""
    [found] = await _OWNER.fetch(connection, tables=list(TABLE_RIGHTS))
    if found["may_create"] and not found["not_owned"]:
        return []
    lacks = f"doesn't own {named(found['not_owned'])}" if found["not_owned"] else "may not create tables"
    return [
        Unmet(
            "owner_role_rights",
            f"The role {found['role']} {lacks} in the schema public of {found['database']}; migrations need the "
            "owner's role in PERENNIAL_MIGRATION_DATABASE_URL.",
        )
    ]


async def runtime_role(connection: Connection, role: str) -> list[Unmet]:
    """Whether the runtime role exists and may connect, as the owner sees it before a migration."""
    [found] = await _RUNTIME_ROLE.fetch(connection, role=role)
    if found["present"] and found["may_connect"]:
        return []
    lacks = "may not connect to the database" if found["present"] else "doesn't exist"
    return [
        Unmet(
            "runtime_role_missing",
            f"The role {role} of PERENNIAL_DATABASE_URL {lacks}; Perennial needs a role with LOGIN and CONNECT.",
        )
    ]


async def identity(connection: Connection) -> tuple[int, int] | None:
    """Equal for two connections to the same database; None if the role may not know it."""
    try:
        [found] = await _IDENTITY.fetch(connection)
    except asyncpg.InsufficientPrivilegeError:
        return None
    return found["cluster"], found["database"]


async def is_unprotected(connection: Connection) -> str | None:
    """The name of the runtime role if it owns the tables or is a superuser; None otherwise."""
    found = await _WHO.fetchrow(connection)
    return str(found["role"]) if found and (found["superuser"] or found["owns"]) else None


async def skew(connection: Connection, clock: Callable[[], float] = time.time) -> float:
    """Seconds by which Postgres' clock and ``clock`` certainly differ: the round trip is subtracted."""
    before = clock()
    now: float = (await _CLOCK.fetchval(connection)).timestamp()
    after = clock()
    return max(now - after, before - now, 0.0)
