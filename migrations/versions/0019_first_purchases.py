"""The time of the first purchase in each currency.

Purchases that retention has deleted are unknown. Where none is left, the latest one counts as the first.
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE purchase_totals ADD COLUMN first_purchase_at timestamptz")
    op.execute(
        """
        UPDATE purchase_totals t SET first_purchase_at = coalesce(
            (SELECT min(p.occurred_at) FROM transactions p
              WHERE p.user_id = t.user_id AND p.currency = t.currency AND p.kind = 'purchase'),
            t.last_purchase_at)
         WHERE t.last_purchase_at IS NOT NULL
        """
    )


def downgrade() -> None:
    op.execute("ALTER TABLE purchase_totals DROP COLUMN first_purchase_at")
