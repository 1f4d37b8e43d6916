"""Sessions by the time of their first event, and decayed sums of sessions and actions."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# The sum of `models.rules.engagement.forward_weight`: 14 days are 1,209,600,000,000 microseconds. Stored
# sessions may be longer than a visit, and stay as they are.
DECAYED_SESSIONS = """
    WITH since AS (
        SELECT user_id, 1000000 * extract(epoch FROM first_at - timestamptz '2026-01-01 00:00+00') AS microseconds
          FROM sessions),
         halved AS (
        SELECT user_id, microseconds, floor(microseconds / 1209600000000) AS halvings FROM since),
         weighed AS (
        SELECT user_id, halvings,
               round(power(2::double precision,
                           CAST(microseconds - 1209600000000 * halvings AS double precision) / 1209600000000)
                     * 1048576)::numeric AS weight
          FROM halved)
    UPDATE user_activity a SET decayed_sessions = s.weights
      FROM (SELECT user_id,
                   sum(CASE WHEN halvings >= 0 THEN weight * power(2::numeric, halvings)
                            ELSE floor(weight / power(2::numeric, -halvings)) END) AS weights
              FROM weighed GROUP BY user_id) AS s
     WHERE s.user_id = a.user_id
"""
_LENGTHEN_THE_FIRST = """
    UPDATE sessions s SET last_at = m.last_at
      FROM (SELECT user_id, session_id, min(first_at) AS first_at, max(last_at) AS last_at
              FROM sessions GROUP BY user_id, session_id HAVING count(*) > 1) AS m
     WHERE (s.user_id, s.session_id, s.first_at) = (m.user_id, m.session_id, m.first_at)
"""
_DELETE_OTHERS = """
    DELETE FROM sessions s USING sessions o
     WHERE (o.user_id, o.session_id) = (s.user_id, s.session_id) AND o.first_at < s.first_at
"""


def upgrade() -> None:
    _key("user_id, session_id, first_at")
    op.execute(
        "ALTER TABLE user_activity ADD COLUMN decayed_sessions numeric NOT NULL DEFAULT 0,"
        " ADD COLUMN decayed_actions numeric NOT NULL DEFAULT 0"
    )
    op.execute(DECAYED_SESSIONS)


def downgrade() -> None:
    op.execute("ALTER TABLE user_activity DROP COLUMN decayed_sessions, DROP COLUMN decayed_actions")
    op.execute(_LENGTHEN_THE_FIRST)
    op.execute(_DELETE_OTHERS)
    _key("user_id, session_id")


def _key(columns: str) -> None:
    op.execute(f"ALTER TABLE sessions DROP CONSTRAINT sessions_pkey, ADD PRIMARY KEY ({columns})")
