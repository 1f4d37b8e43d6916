"""Versions of event types' declarations. The current declaration of each becomes its version 1."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE event_types ADD COLUMN version integer NOT NULL DEFAULT 1")
    op.execute(
        """
        CREATE TABLE event_type_versions (
            event_type text,
            version integer,
            changed_at timestamptz NOT NULL,
            actor text NOT NULL,
            description text NOT NULL,
            json_schema jsonb NOT NULL,
            pii text[] NOT NULL,
            dimensions text[] NOT NULL,
            basis text NOT NULL,
            basis_reason text,
            PRIMARY KEY (event_type, version)
        )
        """
    )
    op.execute(
        """
        INSERT INTO event_type_versions
        SELECT event_type, version, changed_at, 'system:migration', description, json_schema, pii, dimensions,
               basis, basis_reason
          FROM event_types
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE event_type_versions")
    op.execute("ALTER TABLE event_types DROP COLUMN version")
