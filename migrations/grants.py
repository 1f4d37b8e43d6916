"""Sets the rights of the runtime role after every migration.

The runtime role owns no table and runs no DDL. It gets the ordinary rights on each table of the registry, except
those named below. It gets none on partitions, since statements access them through their parent.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from models.tables.registry import TABLES

ORDINARY = ("SELECT", "INSERT", "UPDATE", "DELETE")
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "consent_history": ("SELECT", "INSERT"),
    # Without INSERT on audit_id, xid and occurred_at: only Postgres sets them.
    "audit_log": (
        "SELECT",
        "INSERT (actor, role, action, user_id, subjects, fields, request_id, outcome, details)",
    ),
    "audit_checkpoints": ("SELECT", "INSERT"),
    # Redactions update these two columns. All others never change.
    "events": ("SELECT", "INSERT", "DELETE", "UPDATE (body, dimensions)"),
    "event_ids": ("SELECT", "INSERT", "DELETE"),
    "log_generation": ("SELECT", "UPDATE"),
    "alembic_version": ("SELECT",),
}
SEQUENCES = ("events_sequence", "temporal_outbox_outbox_id_seq")
FUNCTIONS = ("ensure_events_partition(date)", "expire_audit_hour(bytea)")


def grant(connection: Connection, role: str) -> None:
    """Grant a role its rights on all tables, and revoke all others. The owner keeps all rights."""
    if connection.execute(text("SELECT current_user")).scalar_one() == role:
        return
    quote = connection.dialect.identifier_preparer.quote
    present = set(
        connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")).scalars()
    )
    connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {quote(role)}"))
    for table in present & ({str(model.__tablename__) for model in TABLES} | EXCEPTIONS.keys()):
        rights = ", ".join(EXCEPTIONS.get(table, ORDINARY))
        connection.execute(text(f"REVOKE ALL ON {quote(table)} FROM {quote(role)}"))
        connection.execute(text(f"GRANT {rights} ON {quote(table)} TO {quote(role)}"))
    for sequence in SEQUENCES:
        if connection.execute(text("SELECT to_regclass(:name)"), {"name": sequence}).scalar_one() is not None:
            connection.execute(text(f"GRANT USAGE ON SEQUENCE {sequence} TO {quote(role)}"))
    for function in FUNCTIONS:
        if connection.execute(text("SELECT to_regprocedure(:name)"), {"name": function}).scalar_one() is not None:
            connection.execute(text(f"GRANT EXECUTE ON FUNCTION {function} TO {quote(role)}"))
