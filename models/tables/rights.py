"""The rights of the runtime role on each table, sequence and function. Migrations grant them, and checks compare.

The runtime role owns no table and runs no DDL. It gets the ordinary rights on each table of the registry, except
those named below. It gets none on partitions, since statements access them through their parent.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.tables.registry import TABLES

_ORDINARY = ("SELECT", "INSERT", "UPDATE", "DELETE")
_EXCEPTIONS: dict[str, tuple[str, ...]] = {
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
    "event_type_versions": ("SELECT", "INSERT"),
    "log_generation": ("SELECT", "UPDATE"),
    "alembic_version": ("SELECT",),
}
TABLE_RIGHTS: Mapping[str, tuple[str, ...]] = {
    **{str(model.__tablename__): _ORDINARY for model in TABLES},
    **_EXCEPTIONS,
}
"""By table; a right on some columns is ``INSERT (a, b)``."""
SEQUENCES = ("events_sequence", "temporal_outbox_outbox_id_seq")
FUNCTIONS = ("ensure_events_partition(date)", "expire_audit_hour(bytea)", "log_horizon_holder()")
