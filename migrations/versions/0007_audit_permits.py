"""Lets an hour of the audit log expire only with a permit that the chain's key makes."""

from __future__ import annotations

from alembic import op

from migrations.initial.retention import STATEMENTS

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

EXPIRE_AUDIT_HOUR = """
CREATE FUNCTION expire_audit_hour(permit bytea DEFAULT NULL, OUT expired_hour timestamptz, OUT expired_rows bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted bytea;
    kept interval := '30 days';
BEGIN
    PERFORM pg_advisory_xact_lock(x'6175646974'::bigint);
    SELECT date_trunc('hour', min(occurred_at), 'UTC') INTO expired_hour FROM public.audit_log;
    SELECT permit_digest INTO wanted FROM public.audit_checkpoints WHERE hour = expired_hour;
    IF NOT FOUND THEN
        expired_hour := NULL;
        RETURN;
    END IF;
    IF wanted IS NULL THEN
        kept := '730 days';
    ELSIF permit IS NULL OR sha256(permit) <> wanted THEN
        expired_hour := NULL;
        RETURN;
    END IF;
    IF expired_hour + interval '1 hour' > now() - kept THEN
        expired_hour := NULL;
        RETURN;
    END IF;
    DELETE FROM public.audit_log
     WHERE occurred_at >= expired_hour AND occurred_at < expired_hour + interval '1 hour';
    GET DIAGNOSTICS expired_rows = ROW_COUNT;
END $$
"""
"""Deletes the rows of the oldest hour; returns the hour and their number, or NULLs if no hour may be deleted.

An hour may be deleted if it is at least 30 days old, has a checkpoint, and the caller knows the permit whose
SHA-256 that checkpoint has. The chain's key makes the permit, so rights in the database alone don't suffice. The
runtime role can add checkpoints and change periods, but it can't change an hour's checkpoint. An hour whose
checkpoint is older than permits may be deleted after 730 days.

The function runs as the owner, since the runtime role may not delete from the log. It chooses the hour itself, and
deletes whole hours, so that missing rows in an hour prove tampering.
"""


def upgrade() -> None:
    op.execute("ALTER TABLE audit_checkpoints ADD COLUMN permit_digest bytea")
    op.execute("DROP FUNCTION expire_audit_hour()")
    op.execute(EXPIRE_AUDIT_HOUR)
    op.execute("REVOKE ALL ON FUNCTION expire_audit_hour(bytea) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION expire_audit_hour(bytea)")
    op.execute("ALTER TABLE audit_checkpoints DROP COLUMN permit_digest")
    for statement in STATEMENTS:
        if "expire_audit_hour" in statement:
            op.execute(statement)
