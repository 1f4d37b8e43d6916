"""When a lifecycle stage was set, and when the sweep looks at it."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The stages of existing profiles count as set now, so crossings of the past move nobody.
    op.execute("ALTER TABLE users ADD COLUMN lifecycle_stage_changed_at timestamptz NOT NULL DEFAULT now()")
    op.execute(
        """ALTER TABLE user_activity ADD COLUMN stage_due_at timestamptz,
                                     ADD COLUMN last_historical_at timestamptz"""
    )
    op.execute("UPDATE user_activity SET stage_due_at = last_session_date WHERE last_session_date IS NOT NULL")
    op.execute(
        """CREATE INDEX user_activity_by_stage_due ON user_activity (stage_due_at)
            WHERE stage_due_at IS NOT NULL"""
    )


def downgrade() -> None:
    op.execute("DROP INDEX user_activity_by_stage_due")
    op.execute("ALTER TABLE user_activity DROP COLUMN last_historical_at, DROP COLUMN stage_due_at")
    op.execute("ALTER TABLE users DROP COLUMN lifecycle_stage_changed_at")
