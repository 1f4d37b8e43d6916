"""Callbacks without a role of their own: what counts is the one that the key which executed the instance has now.

Which key that was is in `instances.started_by`, so that this holds for callbacks of before as well.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the role."""
    op.drop_column("callbacks", "role")


def downgrade() -> None:
    """Add it again, as the one to which people are masked."""
    op.add_column("callbacks", sa.Column("role", sa.Text(), server_default=sa.text("'analyst'"), nullable=False))
    op.alter_column("callbacks", "role", server_default=None)
