"""The states of an instance. Each transition is one function, which checks its precondition.

:mod:`store.instances.transitions`, :mod:`store.instances.terminal` and :mod:`store.instances.attempts` have the
functions. No other code writes to ``instances`` (``none``: no row)::

    none                          -> running                         insert, insert_all
    failed                        -> running                         insert, request_replay
    running                       -> running                         enter_step, record_trigger, mark_cancelled
    running                       -> running                         mark_problem, begin_start
    paused                        -> paused                          enter_step, record_trigger, mark_cancelled
    paused                        -> paused                          mark_problem
    running, paused               -> running, paused                 record_progress
    running, paused               -> completed                       finish
    running, paused               -> failed                          finish, end_unrecorded, reject_replay
    running, paused               -> cancelled                       finish, end_unrecorded, end_unstarted
    running                       -> none                            delete_unstarted
    completed, failed, cancelled  -> none                            delete_ended

``tests/store/test_transitions.py`` compares this table with the functions' declarations, and tests each function
in each state.

Only a replay changes an ended instance. Other late writes are dropped, and so are writes of a run that a replay
has replaced (:data:`FENCE`). A function that ends an instance applies the effects of the end in the same
transaction.

Lock order: the person's bucket (:mod:`store.consents.locks`), then the instance's row, then its dead letters,
waits, callback and outbox entries. A transaction that holds an instance's row waits for no bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import bindparam, text
from sqlmodel import col

from models.tables.execution import Instance
from models.vocabulary import InstanceStatus
from store.connection import Connection
from store.statements import select, statement

CURRENT_RUN = ":run_id <> ALL(instances.replaced_runs)"
FENCE = f"instances.end_time IS NULL AND {CURRENT_RUN}"
"""Condition of each write by a Temporal run: the instance has no end, and no replay has replaced the run."""

CONSENT_WITHDRAWN = "consent_withdrawn"
ACCOUNT_CLOSED = "account_closed"
NOT_STARTED = "not_started"
"""A repeated request may start an instance with this reason again."""

State = InstanceStatus | None
EDGES: dict[str, frozenset[tuple[State, State]]] = {}
"""The transitions that each function may make; None: no row."""

UNFINISHED = (InstanceStatus.RUNNING, InstanceStatus.PAUSED)
ENDED = (InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.CANCELLED)
UNCHANGED: frozenset[tuple[State, State]] = frozenset((status, status) for status in UNFINISHED)

F = TypeVar("F", bound=Callable[..., Any])


def transition(sources: Sequence[State], targets: Sequence[State]) -> Callable[[F], F]:
    """Declare that a function changes each source to each target."""

    def declare(function: F) -> F:
        EDGES[function.__name__] = frozenset((source, target) for source in sources for target in targets)
        return function

    return declare


def keeps_status(function: F) -> F:
    """Declare that a function writes to an unfinished instance and keeps its status."""
    EDGES[function.__name__] = UNCHANGED
    return function


_IS_CURRENT = statement(select(text(CURRENT_RUN)).where(col(Instance.instance_id) == bindparam("instance_id")))


async def is_current(connection: Connection, instance_id: str, run_id: str) -> bool:
    """Whether the instance has a row, ended or not, and no replay has replaced this run of it."""
    return bool(await _IS_CURRENT.fetchval(connection, instance_id=instance_id, run_id=run_id))
