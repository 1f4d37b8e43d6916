"""Whether a workflow may run for an account: the rule, and a check of many triggers at once.

:func:`store.instances.starting.check_eligible` checks one start, under its locks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from asyncpg import Record
from sqlalchemy import ColumnElement, func, literal, literal_column, or_, true
from sqlmodel import col

from models.errors import AccountClosedError, AccountSuspendedError, PerennialError
from models.tables.execution import WorkflowSetting
from models.tables.people import Consent, User
from models.vocabulary import AccountStatus, NotStarted, Purpose
from store.connection import Connection
from store.statements import Statement, select, statement, unnested

_ONE: ColumnElement[int] = literal_column("1")


def account_error(status: str | None, purpose: str | None) -> PerennialError | None:
    """Why an instance with this purpose may not run for an account; None if it may."""
    if status == AccountStatus.CLOSED:
        return AccountClosedError()
    if status == AccountStatus.SUSPENDED and purpose == Purpose.MARKETING:
        return AccountSuspendedError()
    return None


def _refusals_statement() -> Statement:
    wanted = unnested("wanted", col(WorkflowSetting.workflow_id), col(User.user_id), col(Consent.purpose))
    # With LIMIT, Postgres looks each user up by an index. Without it, it may read the whole tables.
    account = select(col(User.account_status)).where(col(User.user_id) == wanted.c.user_id).limit(_ONE)
    consent = (
        select(col(Consent.granted))
        .where(col(Consent.user_id) == wanted.c.user_id, col(Consent.purpose) == wanted.c.purpose)
        .limit(_ONE)
    )
    a, c = account.lateral("a"), consent.lateral("c")
    return statement(
        select(
            wanted.c.workflow_id,
            wanted.c.user_id,
            wanted.c.purpose,
            a.c.account_status,
            func.coalesce(col(WorkflowSetting.enabled), literal(value=True)).label("enabled"),
            or_(wanted.c.purpose.is_(None), func.coalesce(c.c.granted, literal(value=False))).label("consented"),
        )
        .select_from(wanted)
        .outerjoin(WorkflowSetting, col(WorkflowSetting.workflow_id) == wanted.c.workflow_id)
        .outerjoin(a, true())
        .outerjoin(c, true())
    )


_REFUSALS = _refusals_statement()


async def refusals(
    connection: Connection, wanted: Collection[tuple[str, str]], purposes: Mapping[str, Purpose | None]
) -> dict[tuple[str, str], NotStarted]:
    """The (workflow, user) pairs that may not start, each with its reason. ``purposes``: by workflow."""
    if not wanted:
        return {}
    ordered = sorted(wanted)
    rows = await _REFUSALS.fetch(
        connection,
        workflow_id=[workflow_id for workflow_id, _ in ordered],
        user_id=[user_id for _, user_id in ordered],
        purpose=[purposes[workflow_id] for workflow_id, _ in ordered],
    )
    reasons = {(row["workflow_id"], row["user_id"]): _reason(row) for row in rows}
    return {pair: reason for pair, reason in reasons.items() if reason is not None}


def _reason(row: Record) -> NotStarted | None:
    if (error := account_error(row["account_status"], row["purpose"])) is not None:
        return NotStarted(error.code)
    if not row["enabled"]:
        return NotStarted.DISABLED
    return None if row["consented"] else NotStarted.CONSENT_REQUIRED
