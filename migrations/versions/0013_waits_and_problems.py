"""The deadlines of an instance's waits, and the problem that keeps it from going on."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """ALTER TABLE instances ADD COLUMN waits_until jsonb, ADD COLUMN problem text,
                                 ADD COLUMN problem_since timestamptz"""
    )
    op.execute(
        """CREATE INDEX instances_with_problem ON instances (problem, start_time, instance_id)
            WHERE problem IS NOT NULL"""
    )


def downgrade() -> None:
    op.execute("DROP INDEX instances_with_problem")
    op.execute("ALTER TABLE instances DROP COLUMN problem_since, DROP COLUMN problem, DROP COLUMN waits_until")
