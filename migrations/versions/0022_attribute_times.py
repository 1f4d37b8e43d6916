"""The time of the last change of each attribute of a profile."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # NULL says that the row is older than the column: its attributes count as changed when the row was.
    op.execute("ALTER TABLE users ADD COLUMN attribute_times jsonb")
    op.execute("ALTER TABLE users ALTER COLUMN attribute_times SET DEFAULT '{}'")


def downgrade() -> None:
    op.execute("ALTER TABLE users DROP COLUMN attribute_times")
