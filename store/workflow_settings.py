"""An admin's overrides of workflow definitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Boolean, SmallInteger, bindparam, case, func, null
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.tables.execution import WorkflowSetting
from store.connection import Connection
from store.statements import select, statement


@dataclass(frozen=True)
class WorkflowSettings:
    """Overrides of one definition; ``max_attempts`` None keeps the definition's number."""

    max_attempts: int | None = None
    enabled: bool = True


_ALL = statement(
    select(col(WorkflowSetting.workflow_id), col(WorkflowSetting.max_attempts), col(WorkflowSetting.enabled))
)


async def all_settings(connection: Connection) -> Mapping[str, WorkflowSettings]:
    """The overrides by workflow id; workflows without overrides are missing."""
    rows = await _ALL.fetch(connection)
    return {row["workflow_id"]: WorkflowSettings(row["max_attempts"], row["enabled"]) for row in rows}


_LOCK = statement(
    select(col(WorkflowSetting.max_attempts), col(WorkflowSetting.enabled))
    .where(col(WorkflowSetting.workflow_id) == bindparam("workflow_id"))
    .with_for_update()
)


async def locked(connection: Connection, workflow_id: str) -> WorkflowSettings:
    """The overrides of a workflow, locked until the transaction ends; the defaults if there are none."""
    row = await _LOCK.fetchrow(connection, workflow_id=workflow_id)
    return WorkflowSettings() if row is None else WorkflowSettings(**row)


_MAX_ATTEMPTS = bindparam("new_max_attempts", type_=SmallInteger)
_ENABLED = bindparam("new_enabled", type_=Boolean)
_CHANGE = statement(
    insert(WorkflowSetting)
    .values(
        workflow_id=bindparam("workflow_id"), max_attempts=_MAX_ATTEMPTS, enabled=func.coalesce(_ENABLED, True)
    )
    .on_conflict_do_update(
        index_elements=["workflow_id"],
        set_={
            "max_attempts": case(
                (bindparam("as_defined", type_=Boolean), null()),
                else_=func.coalesce(_MAX_ATTEMPTS, col(WorkflowSetting.max_attempts)),
            ),
            "enabled": func.coalesce(_ENABLED, col(WorkflowSetting.enabled)),
            "changed_at": func.now(),
        },
    )
    .returning(col(WorkflowSetting.max_attempts), col(WorkflowSetting.enabled))
)


async def change(
    connection: Connection,
    workflow_id: str,
    *,
    max_attempts: int | None,
    enabled: bool | None,
    as_defined: bool = False,
) -> WorkflowSettings:
    """Change the settings that are not None, keep the others; returns the current settings.

    ``as_defined`` removes the override of ``max_attempts``.
    """
    row = await _CHANGE.fetchrow(
        connection,
        workflow_id=workflow_id,
        new_max_attempts=max_attempts,
        new_enabled=enabled,
        as_defined=as_defined,
    )
    assert row is not None  # an upsert without a condition always returns its row
    return WorkflowSettings(row["max_attempts"], row["enabled"])
