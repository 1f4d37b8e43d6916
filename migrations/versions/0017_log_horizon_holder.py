"""A function that names the session which holds the log's horizon back."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

LOG_HORIZON_HOLDER = """
CREATE FUNCTION log_horizon_holder(OUT application text, OUT state text, OUT since timestamptz)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT application_name, state, xact_start FROM pg_stat_activity
     WHERE backend_xid = CAST(pg_snapshot_xmin(pg_current_snapshot()) AS xid)
    UNION ALL
    SELECT 'prepared transaction', 'prepared', prepared FROM pg_prepared_xacts
     WHERE transaction = CAST(pg_snapshot_xmin(pg_current_snapshot()) AS xid)
$$
"""
"""The session whose write transaction is the oldest open one of the cluster; no row without one.

Postgres shows another role's state and times only to `pg_read_all_stats`, which shows statements too. So the
tables' owner gets that role, if a superuser grants it, and the runtime role gets these three columns. Without it,
state and since are NULL for sessions of other roles.
"""


def upgrade() -> None:
    op.execute(LOG_HORIZON_HOLDER)
    op.execute("REVOKE ALL ON FUNCTION log_horizon_holder() FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION log_horizon_holder()")
