"""Keys of instances: at most one runs for a user, workflow and key."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE instances ADD COLUMN key_digest bytea")
    op.execute(
        """
        CREATE UNIQUE INDEX instances_running_key ON instances (key_digest)
        WHERE end_time IS NULL AND key_digest IS NOT NULL
        """
    )
    op.execute("ALTER TABLE trigger_windows ADD COLUMN key_digest bytea NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE trigger_windows ALTER COLUMN opened_at DROP NOT NULL")
    op.execute("ALTER TABLE trigger_windows DROP CONSTRAINT trigger_windows_pkey")
    op.execute("ALTER TABLE trigger_windows ADD PRIMARY KEY (workflow_id, user_id, key_digest)")


def downgrade() -> None:
    op.execute("DELETE FROM trigger_windows WHERE key_digest <> '' OR opened_at IS NULL")
    op.execute("ALTER TABLE trigger_windows DROP COLUMN key_digest")  # with its primary key
    op.execute("ALTER TABLE trigger_windows ADD PRIMARY KEY (workflow_id, user_id)")
    op.execute("ALTER TABLE trigger_windows ALTER COLUMN opened_at SET NOT NULL")
    op.execute("ALTER TABLE instances DROP COLUMN key_digest")  # with its index
