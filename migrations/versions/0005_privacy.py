"""Order ids, the filters of waits and idempotency keys are encrypted or digested like the rest of what people send.

A migration holds no keys, so what is there in the clear is dropped, not encrypted: order ids of earlier purchases are
null afterwards (their events still have them). A wait with a filter can't be kept without it, since it would then
match any event; no workflow that was ever released has one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM event_waits WHERE property_filter IS NOT NULL")
    op.execute("DELETE FROM idempotent_answers")
    # A change of type writes the table anew, so that the old values leave the disk with the old file.
    for table, column in (("transactions", "order_id"), ("event_waits", "property_filter")):
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bytea USING NULL")
        op.alter_column(table, column, comment="personal: encrypted", existing_type=sa.LargeBinary())


def downgrade() -> None:
    op.execute("ALTER TABLE transactions ALTER COLUMN order_id TYPE text USING NULL")
    op.execute("DELETE FROM event_waits WHERE property_filter IS NOT NULL")
    op.execute("ALTER TABLE event_waits ALTER COLUMN property_filter TYPE jsonb USING NULL")
    for table, column in (("transactions", "order_id"), ("event_waits", "property_filter")):
        op.alter_column(table, column, comment=None)
