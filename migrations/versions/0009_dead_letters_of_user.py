"""Dead letters by user: an export of a person reads them, and an erasure will."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("dead_letters_of_user", "dead_letters", ["user_id"], unique=False)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("dead_letters_of_user", "dead_letters")
