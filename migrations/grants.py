"""What the runtime role may do: declared here, and set anew after every migration.

A role that serves requests owns nothing and alters nothing. A new table gets the ordinary grants by being in
the registry; one that is only ever added to is named below. Partitions get none: they are reached through
their parent.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from models.tables.registry import TABLES

ORDINARY = ("SELECT", "INSERT", "UPDATE", "DELETE")
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "consent_history": ("SELECT", "INSERT"),
    # Not its number, transaction and time: those are the database's to say.
    "audit_log": (
        "SELECT",
        "INSERT (actor, role, action, user_id, subjects, fields, request_id, outcome, details)",
    ),
    "audit_checkpoints": ("SELECT", "INSERT"),
    # Of an event only what a refused attribute is taken out of; not whose it is, nor its place in the log.
    "events": ("SELECT", "INSERT", "DELETE", "UPDATE (body, dimensions)"),
    "event_ids": ("SELECT", "INSERT", "DELETE"),
    "log_generation": ("SELECT", "UPDATE"),
    "alembic_version": ("SELECT",),
}
SEQUENCES = ("events_sequence", "temporal_outbox_outbox_id_seq")
FUNCTIONS = ("ensure_events_partition(date)", "expire_audit_hour()")


def grant(connection: Connection, role: str) -> None:
    """Give a role its rights on all tables, and take every other; nothing to do for the owner itself."""
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
