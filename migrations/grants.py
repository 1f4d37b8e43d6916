"""What the runtime role may do: declared here, and set anew after every migration.

A role that serves requests owns nothing and alters nothing. A new table gets the ordinary grants by being in
the registry; one that is only ever added to is named below.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from models.tables.registry import TABLES

ORDINARY = ("SELECT", "INSERT", "UPDATE", "DELETE")
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "consent_history": ("SELECT", "INSERT"),
    "alembic_version": ("SELECT",),
}


def grant(connection: Connection, role: str) -> None:
    """Give a role its rights on all tables, and take every other; nothing to do for the owner itself."""
    if connection.execute(text("SELECT current_user")).scalar_one() == role:
        return
    quote = connection.dialect.identifier_preparer.quote
    present = set(
        connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")).scalars()
    )
    connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {quote(role)}"))
    for table in present & ({model.__table__.name for model in TABLES} | EXCEPTIONS.keys()):  # type: ignore[attr-defined]
        rights = ", ".join(EXCEPTIONS.get(table, ORDINARY))
        connection.execute(text(f"REVOKE ALL ON {quote(table)} FROM {quote(role)}"))
        connection.execute(text(f"GRANT {rights} ON {quote(table)} TO {quote(role)}"))
