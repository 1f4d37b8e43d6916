"""Finds a person's stored answers, to delete what the person has refused since."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX idempotent_answers_by_subject ON idempotent_answers (subject) WHERE body IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP INDEX idempotent_answers_by_subject")
