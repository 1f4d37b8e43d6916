"""The database and its two roles: the owner migrates it; the runtime role serves requests and owns nothing."""

from __future__ import annotations

import asyncpg

DATABASE = "perennial"
OWNER_ROLE = "perennial_owner"
APP_ROLE = "perennial_app"


async def ensure_roles(
    *, host: str, port: int, superuser: str, password: str, owner_password: str, app_password: str
) -> None:
    """Create roles and database if they are missing. After a crash at any line, a repeated call completes them.

    Migrations grant the runtime role its rights to tables.
    """
    connection = await asyncpg.connect(
        host=host, port=port, user=superuser, password=password, database="postgres", ssl=False, timeout=30
    )
    try:
        await _ensure_role(connection, OWNER_ROLE, owner_password)
        await _ensure_role(connection, APP_ROLE, app_password)
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}")
        for database in (DATABASE, "postgres", "template1"):
            await connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        await connection.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {APP_ROLE}")
        # For the function `log_horizon_holder`, which runs as the owner.
        await connection.execute(f"GRANT pg_read_all_stats TO {OWNER_ROLE}")
    finally:
        await connection.close()


async def _ensure_role(connection: asyncpg.Connection, role: str, password: str) -> None:
    exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
    verb = "ALTER" if exists else "CREATE"
    # CREATE ROLE takes no parameters. Role and password hold only letters, digits and underscores.
    await connection.execute(
        f"{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS "
        f"PASSWORD '{password}'"
    )
