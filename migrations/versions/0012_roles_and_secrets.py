"""A key may have several roles, and replaced secrets that are still valid."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE api_keys ADD COLUMN roles text[]")
    op.execute("UPDATE api_keys SET roles = ARRAY[role]")
    op.execute("ALTER TABLE api_keys ALTER COLUMN roles SET NOT NULL, DROP COLUMN role")
    op.execute(
        """
        CREATE TABLE replaced_secrets (
            hash bytea PRIMARY KEY,
            key_id text NOT NULL,
            expires_at timestamptz NOT NULL
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE replaced_secrets")
    op.execute("ALTER TABLE api_keys ADD COLUMN role text")
    op.execute("UPDATE api_keys SET role = roles[1]")
    op.execute("ALTER TABLE api_keys ALTER COLUMN role SET NOT NULL, DROP COLUMN roles")
