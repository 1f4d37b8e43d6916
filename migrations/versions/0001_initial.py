"""The initial schema. A database of an earlier, unreleased version can't be upgraded to it."""

from __future__ import annotations

from collections.abc import Mapping

from alembic import op

from migrations.initial import events, instances, people, retention

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

AREAS = (people, instances, events, retention)
PERSONAL: Mapping[str, tuple[str, ...]] = {
    "users": (
        *("email", "name", "age", "date_of_birth", "gender", "city", "timezone", "language"),
        "device_type",
    ),
    "idempotent_answers": ("body",),
    "instances": ("parameters", "variables", "error"),
    "steps": ("result",),
    "attempts": ("error_message",),
    "dead_letters": ("error",),
    "callbacks": ("url", "secret"),
    "messages": ("recipient", "subject", "body"),
    "events": ("body",),
    "transactions": ("order_id",),
    "event_waits": ("property_filter",),
}


def upgrade() -> None:
    for area in AREAS:
        for statement in area.STATEMENTS:
            op.execute(statement)
    for table, columns in PERSONAL.items():
        for column in columns:
            op.execute(f"COMMENT ON COLUMN {table}.{column} IS 'personal: encrypted'")


def downgrade() -> None:
    op.execute("DROP FUNCTION ensure_events_partition(date), expire_audit_hour()")
    for area in reversed(AREAS):
        op.execute(f"DROP TABLE {', '.join(area.TABLES)}")
    op.execute("DROP SEQUENCE events_sequence")
