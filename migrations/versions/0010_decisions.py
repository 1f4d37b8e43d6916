"""Records the triggers that were not followed."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE decisions (
            user_id text,
            hour timestamptz,
            workflow_id text,
            reason text,
            at timestamptz NOT NULL DEFAULT now(),
            event_id text NOT NULL,
            first_at timestamptz NOT NULL DEFAULT now(),
            first_event_id text NOT NULL,
            times bigint NOT NULL,
            PRIMARY KEY (user_id, hour, workflow_id, reason)
        )
        """
    )
    op.execute("CREATE INDEX decisions_by_hour ON decisions (hour)")


def downgrade() -> None:
    op.execute("DROP TABLE decisions")
