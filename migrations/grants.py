"""Sets the rights of the runtime role (:mod:`models.tables.rights`) after every migration."""

from __future__ import annotations

from sqlalchemy import Connection, text

from models.tables.rights import FUNCTIONS, SEQUENCES, TABLE_RIGHTS

MIGRATION_LOCK = 0x7065_7265_6E6E_6961  # "perennia"
"""The advisory lock of a migration. Grants and changes of a table that run at once fail."""


def grant(connection: Connection, role: str) -> None:
    """Grant a role its rights on all tables, and revoke all others. The owner keeps all rights."""
    if connection.execute(text("SELECT current_user")).scalar_one() == role:
        return
    quote = connection.dialect.identifier_preparer.quote
    present = set(
        connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")).scalars()
    )
    connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {quote(role)}"))
    for table in present & TABLE_RIGHTS.keys():
        rights = ", ".join(TABLE_RIGHTS[table])
        connection.execute(text(f"REVOKE ALL ON {quote(table)} FROM {quote(role)}"))
        connection.execute(text(f"GRANT {rights} ON {quote(table)} TO {quote(role)}"))
    for sequence in SEQUENCES:
        if connection.execute(text("SELECT to_regclass(:name)"), {"name": sequence}).scalar_one() is not None:
            connection.execute(text(f"GRANT USAGE ON SEQUENCE {sequence} TO {quote(role)}"))
    for function in FUNCTIONS:
        if connection.execute(text("SELECT to_regprocedure(:name)"), {"name": function}).scalar_one() is not None:
            connection.execute(text(f"GRANT EXECUTE ON FUNCTION {function} TO {quote(role)}"))
