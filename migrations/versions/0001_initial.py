"""The first schema: people, access, execution. Personal columns are encrypted from here on; none was ever plain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "users",
    "data_keys",
    "consents",
    "consent_history",
    "api_keys",
    "rate_windows",
    "idempotent_answers",
    "instances",
    "steps",
    "attempts",
    "messages",
    "workflow_settings",
)


def upgrade() -> None:
    _users()
    _data_keys()
    _consents()
    _consent_history()
    _api_keys()
    _rate_windows()
    _idempotent_answers()
    _instances()
    _steps()
    _attempts()
    _messages()
    _workflow_settings()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _users() -> None:
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("email", sa.LargeBinary(), nullable=False, comment="personal: encrypted"),
        sa.Column("email_index", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False, comment="personal: encrypted"),
        sa.Column("signup_date", sa.DateTime(timezone=True), nullable=False),
        sa.Column("account_status", sa.Text(), nullable=False),
        sa.Column("lifecycle_stage", sa.Text(), nullable=False),
        sa.Column("lifecycle_stage_pinned", sa.Boolean(), nullable=False),
        sa.Column("age", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("date_of_birth", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("gender", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("country", sa.Text(), nullable=True),
        sa.Column("city", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("timezone", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("language", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("device_type", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("privacy_preferences", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("subscription_tier", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_index("users_by_stage", "users", ["lifecycle_stage", "user_id"], unique=False)
    op.create_index("users_by_status", "users", ["account_status", "user_id"], unique=False)
    op.create_index("users_email_index", "users", ["email_index"], unique=False)


def _data_keys() -> None:
    op.create_table(
        "data_keys",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("subject"),
    )


def _consents() -> None:
    op.create_table(
        "consents",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("granted", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "purpose"),
    )


def _consent_history() -> None:
    op.create_table(
        "consent_history",
        sa.Column("record_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("granted", sa.Boolean(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.Text(), nullable=True),
        sa.Column("legal_basis", sa.Text(), server_default=sa.text("'consent'"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("record_id"),
    )
    op.create_index("consent_history_by_user", "consent_history", ["user_id", "record_id"], unique=False)


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("rate_limit", sa.Integer(), nullable=True),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_index("api_keys_by_hash", "api_keys", ["hash"], unique=True)


def _rate_windows() -> None:
    op.create_table(
        "rate_windows",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key_id"),
        postgresql_with={"fillfactor": 50},
        prefixes=["UNLOGGED"],
    )


def _idempotent_answers() -> None:
    op.create_table(
        "idempotent_answers",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "idempotency_key"),
    )
    op.create_index("idempotent_answers_by_age", "idempotent_answers", ["created_at"], unique=False)


def _instances() -> None:
    op.create_table(
        "instances",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("current_step", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("parameters", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("variables", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("error", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("instance_id"),
    )
    op.create_index("instances_by_user", "instances", ["user_id", "start_time", "instance_id"], unique=False)
    op.create_index(
        "instances_by_workflow", "instances", ["workflow_id", "start_time", "instance_id"], unique=False
    )


def _steps() -> None:
    op.create_table(
        "steps",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("completed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "step"),
    )


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error_message", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("interrupted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "step", "attempt"),
    )


def _messages() -> None:
    op.create_table(
        "messages",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("recipient", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("subject", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("body", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("message_id"),
    )
    op.create_index("messages_by_step", "messages", ["instance_id", "step"], unique=True)
    op.create_index("messages_by_user", "messages", ["user_id", "created_at"], unique=False)


def _workflow_settings() -> None:
    op.create_table(
        "workflow_settings",
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id"),
    )
