"""The windows of onboarding, which an account has once: those of the instances that there are."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        INSERT INTO trigger_windows (workflow_id, user_id, instance_id, opened_at)
        SELECT DISTINCT ON (user_id) workflow_id, user_id, instance_id, start_time
        FROM instances WHERE workflow_id = 'onboarding'
        ORDER BY user_id, start_time DESC, instance_id
        ON CONFLICT DO NOTHING
        """
    )


def downgrade() -> None:
    op.execute("DELETE FROM trigger_windows WHERE workflow_id = 'onboarding'")
