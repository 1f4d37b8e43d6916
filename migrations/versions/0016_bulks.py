"""Instances that one request starts for many users."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE instances ADD COLUMN bulk_id text, ADD COLUMN start_tried_at timestamptz")
    op.execute("CREATE INDEX instances_of_bulk ON instances (bulk_id) WHERE bulk_id IS NOT NULL")
    op.execute(
        """
        CREATE INDEX temporal_outbox_executions ON temporal_outbox (workflow_id, due_at)
        WHERE kind = 'execute' AND NOT dead
        """
    )


def downgrade() -> None:
    op.execute("DROP INDEX temporal_outbox_executions")
    op.execute("ALTER TABLE instances DROP COLUMN bulk_id, DROP COLUMN start_tried_at")
