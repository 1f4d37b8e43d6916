"""Stores an instance that may start, for a request or a trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record
from sqlalchemy import FromClause, Subquery, Text, and_, bindparam, func, literal, or_
from sqlmodel import col

from models.errors import (
    AccountClosedError,
    AccountSuspendedError,
    ConsentRequiredError,
    DataUnreadableError,
    ParameterMissingError,
    PerennialError,
    UserErasedError,
    UserUnknownError,
    WorkflowDisabledError,
)
from models.instances import NewInstance
from models.rules.triggers import resolved
from models.tables.execution import WorkflowSetting
from models.tables.people import Consent, User
from models.tables.people import DataKey as StoredKey
from models.temporal.execution import RecordedEvent
from models.temporal.starting import Startable, named_exits
from models.vocabulary import NotStarted, Purpose
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.consents import locks
from store.events import events
from store.instances import callbacks, transitions, triggers, waits
from store.instances.eligibility import account_error
from store.pacing import each
from store.statements import Statement, one_of, select, statement, unnested
from store.users import data_keys


class WindowOpenError(Exception):
    """The workflow has another instance for the user within ``once_per``, or at all if it runs once."""

    def __init__(self, instance_id: str) -> None:
        super().__init__("the window is open")
        self.instance_id = instance_id
        """That of the other instance."""


class KeyRunningError(WindowOpenError):
    """An instance with the same key runs."""


INELIGIBLE = (
    UserErasedError,
    UserUnknownError,
    AccountClosedError,
    AccountSuspendedError,
    WorkflowDisabledError,
    ConsentRequiredError,
    ParameterMissingError,
    WindowOpenError,
)
"""The errors of :func:`start`."""
NOT_STARTED: Mapping[type[Exception], NotStarted] = {
    AccountClosedError: NotStarted.ACCOUNT_CLOSED,
    AccountSuspendedError: NotStarted.ACCOUNT_SUSPENDED,
    WorkflowDisabledError: NotStarted.DISABLED,
    ConsentRequiredError: NotStarted.CONSENT_REQUIRED,
    ParameterMissingError: NotStarted.PARAMETER_MISSING,
    WindowOpenError: NotStarted.WINDOW_USED,
    KeyRunningError: NotStarted.ALREADY_RUNNING,
}
"""The reason of a refused trigger, by the error. An erased or unknown user has no decisions."""


@dataclass(frozen=True, repr=False)
class NewCallback:
    """The URL that gets the report of the end, and the secret that signs it."""

    url: str
    secret: str


@dataclass(frozen=True)
class StartRequest:
    """A start for a user, by an API key or by a trigger's event."""

    instance_id: str
    user_id: str
    started_by: str
    parameters: dict[str, Any] | None
    """JSON values; None: those that the trigger's event gives, else the default ones."""
    max_attempts: int | None = None
    """None: the admin's setting for the workflow, else the workflow's own number."""
    limits_attempts: bool | None = None
    """Whether that number limits each step; None: unless it is the workflow's own."""
    callback: NewCallback | None = None
    event: RecordedEvent | None = None
    """The trigger's event, which the instance knows as its trigger."""
    again: bool = False
    """Whether a workflow that runs once may run again."""


@dataclass(frozen=True)
class Stored:
    new: NewInstance
    start_time: datetime
    begun: bool
    """Whether a run has recorded something, or the instance has ended: Temporal must not start it again."""
    callback_secret: str | None


async def start(connection: Connection, cipher: Cipher, workflow: Startable, request: StartRequest) -> Stored:
    """Store an instance with its exits and its callback. Raises the errors of :data:`INELIGIBLE`.

    The caller rolls back its transaction on an error. A repeated start with the same instance id finds the stored
    instance.
    """
    if workflow.purpose is not None:
        # Wait for a withdrawal or a closing in progress: the next statement then sees it.
        await locks.share(connection, [request.user_id])
    key, max_attempts = await check_eligible(connection, cipher, workflow, request.user_id)
    event, parameters, key_digest = request.event, request.parameters, None
    limits = bool(request.max_attempts or max_attempts)
    if parameters is None:
        parameters = await _parameters(connection, key, workflow, event)
    if workflow.key:
        key_digest = cipher.instance_key(workflow.workflow_id, request.user_id, key_values(workflow, parameters))
    new = NewInstance(
        instance_id=request.instance_id,
        workflow_id=workflow.workflow_id,
        user_id=request.user_id,
        max_attempts=request.max_attempts or max_attempts or workflow.max_attempts,
        limits_attempts=limits if request.limits_attempts is None else request.limits_attempts,
        parameters=parameters,
        started_by=request.started_by,
        purpose=workflow.purpose,
        exits=resolved(workflow.exits, parameters),
        trigger=event,
        key_digest=key_digest,
    )
    await open_window(connection, workflow, new, again=request.again)
    inserted = await transitions.insert(connection, key, new)
    if event is not None:
        await transitions.record_trigger(connection, new.instance_id, event.event_id, event.timestamp)
    if not inserted.begun:
        # Register exits before the first step, so that they count events from the instance's start on.
        await waits.register(connection, key, new.instance_id, named_exits(new.exits))
    secret = None
    if request.callback is not None:
        secret = await callbacks.add(
            connection, key, new.instance_id, request.callback.url, request.callback.secret
        )
    return Stored(new, inserted.start_time, inserted.begun, secret)


async def _parameters(
    connection: Connection, key: DataKey, workflow: Startable, event: RecordedEvent | None
) -> dict[str, Any]:
    if workflow.triggered_parameters is None:  # without reading the event
        return dict(workflow.default_parameters)
    held = {} if event is None else await events.properties(connection, key, event.event_id, event.timestamp)
    return workflow.triggered_parameters(held)


def key_values(workflow: Startable, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the workflow's key, as JSON. Raises :class:`ParameterMissingError`, also for an empty text."""
    missing = [name for name in workflow.key if parameters.get(name) in (None, "")]
    if missing:
        raise ParameterMissingError(missing, "at most one instance runs for it")
    return {name: parameters[name] for name in workflow.key}


async def open_window(connection: Connection, workflow: Startable, new: NewInstance, *, again: bool) -> None:
    """Open the window of a new instance, if its workflow has any. Raises :class:`WindowOpenError`."""
    once_per = workflow.once_per if new.trigger is not None or workflow.once else None
    if once_per is None and new.key_digest is None:
        return
    if await triggers.open_window(connection, new, once_per) or (workflow.once and again):
        return
    holder, runs = await triggers.holder(connection, new)
    raise KeyRunningError(holder) if runs and new.key_digest is not None else WindowOpenError(holder)


_ASKED = select(bindparam("user_id", type_=Text()).label("user_id")).subquery("asked")
_ASKED_ALL = unnested("asked", col(User.user_id))
_ACCOUNTS = select(col(User.user_id), col(User.account_status))
_ACCOUNT = _ACCOUNTS.where(col(User.user_id) == bindparam("user_id", type_=Text()))
# In order, so that two bulks never wait for each other.
_ACCOUNTS_ALL = _ACCOUNTS.where(one_of(col(User.user_id), "user_id")).order_by(col(User.user_id))


def _eligibility(asked: FromClause, account: Subquery) -> Statement:
    return statement(
        select(
            asked.c.user_id.label("asked"),
            account.c.user_id,
            account.c.account_status,
            col(StoredKey.subject),
            col(StoredKey.wrapped),
            col(WorkflowSetting.max_attempts),
            func.coalesce(col(WorkflowSetting.enabled), literal(value=True)).label("enabled"),
            or_(
                bindparam("purpose", type_=Text()).is_(None),
                func.coalesce(col(Consent.granted), literal(value=False)),
            ).label("consented"),
        )
        .select_from(asked)
        .outerjoin(account, account.c.user_id == asked.c.user_id)
        .outerjoin(StoredKey, col(StoredKey.subject) == asked.c.user_id)
        .outerjoin(WorkflowSetting, col(WorkflowSetting.workflow_id) == bindparam("workflow_id"))
        .outerjoin(
            Consent,
            and_(
                col(Consent.user_id) == asked.c.user_id,
                col(Consent.purpose) == bindparam("purpose", type_=Text()),
            ),
        )
    )


_OF_A_PURPOSE = _eligibility(_ASKED, _ACCOUNT.subquery("account"))
_ALL_OF_A_PURPOSE = _eligibility(_ASKED_ALL, _ACCOUNTS_ALL.subquery("account"))
# A service shares no bucket. A closing holds the row, so this read waits for it and then gives the new status.
_OF_A_SERVICE = _eligibility(_ASKED, _ACCOUNT.with_for_update(read=True).subquery("account"))
_ALL_OF_A_SERVICE = _eligibility(_ASKED_ALL, _ACCOUNTS_ALL.with_for_update(read=True).subquery("account"))


async def check_eligible(
    connection: Connection, cipher: Cipher, workflow: Startable, user_id: str
) -> tuple[DataKey, int | None]:
    """The person's data key, and the admin's number of attempts for the workflow, if set.

    A closing of the account waits for the caller's transaction, which holds the bucket if the workflow has a
    purpose. Raises the errors of :data:`INELIGIBLE` apart from :class:`WindowOpenError`.
    """
    purpose = workflow.purpose
    eligibility = _OF_A_SERVICE if purpose is None else _OF_A_PURPOSE
    row = await eligibility.fetchrow(
        connection,
        user_id=user_id,
        workflow_id=workflow.workflow_id,
        purpose=purpose.value if purpose else None,
    )
    assert row is not None  # the FROM clause starts with one row of parameters
    if (error := _refusal(row, purpose)) is not None:
        raise error
    return cipher.unwrap(user_id, row["wrapped"]), row["max_attempts"]


async def check_all(
    connection: Connection, cipher: Cipher, workflow: Startable, user_ids: Sequence[str]
) -> dict[str, tuple[DataKey, int | None] | PerennialError]:
    """:func:`check_eligible` for many users: what it returns, or the error that it raises.

    :class:`DataUnreadableError` for a damaged data key.
    """
    purpose = workflow.purpose
    rows = await (_ALL_OF_A_SERVICE if purpose is None else _ALL_OF_A_PURPOSE).fetch(
        connection,
        user_id=list(user_ids),
        workflow_id=workflow.workflow_id,
        purpose=purpose.value if purpose else None,
    )

    def checked(row: Record) -> tuple[DataKey, int | None] | PerennialError:
        if (error := _refusal(row, purpose)) is not None:
            return error
        key = data_keys.unwrapped(cipher, row["asked"], row["wrapped"])
        return (key, row["max_attempts"]) if isinstance(key, DataKey) else DataUnreadableError()

    return dict(zip([row["asked"] for row in rows], await each(checked, rows), strict=True))


def _refusal(row: Record, purpose: Purpose | None) -> PerennialError | None:
    if row["subject"] is not None and row["wrapped"] is None:
        return UserErasedError()
    if row["user_id"] is None:
        return UserUnknownError()
    if (error := account_error(row["account_status"], purpose)) is not None:
        return error
    if not row["enabled"]:
        return WorkflowDisabledError()
    if not row["consented"]:
        return ConsentRequiredError(f"This workflow needs the person's consent to '{purpose}'.")
    return None
