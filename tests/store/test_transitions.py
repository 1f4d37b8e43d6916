"""The table of states in store/instances/states.py, against the declarations and against Postgres."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import store
from delivery.signatures import new_secret
from models.instances import NewInstance
from models.temporal.ending import history_lost
from models.temporal.execution import Progress, StepContext, StepFailure
from models.vocabulary import InstanceStatus, ProblemKind
from privacy.encryption import Cipher, DataKey
from runtime.database import Database
from store.connection import Connection
from store.instances import attempts, callbacks, dead_letters, states, terminal, transitions
from store.instances.instances import Unfinished
from store.instances.terminal import Ending
from store.statements import Statement
from store.users import data_keys
from testing.people import Customer

ID = "i-1"
RUN = "run-1"
NONE = "none"
STATES = (NONE, *(status.value for status in InstanceStatus))
_LINE = re.compile(r"^ {4}([a-z, ]+?) +-> ([a-z, ]+?) {2,}([a-z_, ]+)$", re.MULTILINE)
_WRITE = re.compile(r"\b(?:UPDATE|INSERT\s+INTO|DELETE\s+FROM)\s+instances\b")
FAILURE = StepFailure(error_type="Test", error_message="", failed_step="second", stack_trace="")

Edges = Mapping[str, set[tuple[str, str]]]


def documented() -> Edges:
    found: dict[str, set[tuple[str, str]]] = {}
    for sources, targets, functions in _LINE.findall(states.__doc__ or ""):
        for function in functions.split(", "):
            pairs = {(source, target) for source in sources.split(", ") for target in targets.split(", ")}
            found.setdefault(function, set()).update(pairs)
    return found


def declared() -> Edges:
    return {
        function: {(source or NONE, target or NONE) for source, target in edges}
        for function, edges in states.EDGES.items()
    }


def test_the_table_in_the_docstring_is_what_the_functions_declare() -> None:
    assert documented() == declared()
    assert {state for edges in declared().values() for edge in edges for state in edge} == set(STATES)


def test_nothing_else_writes_to_a_row_of_instances() -> None:
    writing = set()
    for module in pkgutil.walk_packages(store.__path__, "store."):
        members = vars(importlib.import_module(module.name)).values()
        if any(isinstance(each, Statement) and _WRITE.search(each.text) for each in members):
            writing.add(module.name)
    # begin_attempt contains the statement of enter_step.
    assert writing == {f"store.instances.{name}" for name in ("attempts", "terminal", "transitions")}
    root = Path(store.__path__[0]).parent
    texts = {
        str(path.relative_to(root))
        for package in ("activities", "api", "delivery", "privacy", "runtime", "store", "workflows")
        for path in (root / package).rglob("*.py")
        if _WRITE.search(path.read_text())
    }
    assert texts == {"store/instances/transitions.py"}


@dataclass
class Row:
    """One instance, set to any state, and the functions that write to it."""

    connection: Connection
    cipher: Cipher
    key: DataKey

    async def set(self, state: str, *, replaced_runs: tuple[str, ...] = (), **columns: Any) -> None:
        """Put the row into a state; ``none`` deletes it."""
        await self.connection.execute("DELETE FROM instances")
        if state == NONE:
            return
        ended = state not in ("running", "paused")
        await self.connection.execute(
            """INSERT INTO instances (instance_id, workflow_id, user_id, status, max_attempts, started_by, run_id,
                                      reason, purpose, replaced_runs, end_time)
               VALUES ($1, 'onboarding', $2, $3, 3, 'test', $4, $5, 'marketing', $6,
                       CASE WHEN $7 THEN now() - interval '1 hour' END)""",
            ID,
            self.key.subject,
            state,
            columns.get("run_id", RUN),
            columns.get("reason"),
            list(replaced_runs),
            ended,
        )

    async def read(self) -> dict[str, Any] | None:
        row = await self.connection.fetchrow("SELECT * FROM instances")
        return None if row is None else dict(row)

    async def insert(self, _: str) -> None:
        new = NewInstance(ID, "onboarding", self.key.subject, 3, {}, "test")
        await transitions.insert(self.connection, self.key, new)

    async def insert_all(self, _: str) -> None:
        new = NewInstance(ID, "onboarding", self.key.subject, 3, {}, "test")
        await transitions.insert_all(self.connection, "b-1", [new], {self.key.subject: self.key})

    async def begin_start(self, _: str) -> None:
        await attempts.begin_start(self.connection, ID)

    async def enter_step(self, _: str) -> None:
        context = StepContext(
            workflow_id="onboarding",
            instance_id=ID,
            user_id=self.key.subject,
            step="second",
            position=2,
            max_attempts=3,
        )
        await attempts.begin_attempt(self.connection, self.cipher, context, RUN)

    async def mark_problem(self, _: str) -> None:
        await transitions.mark_problem(self.connection, ProblemKind.NO_WORKER, [ID])

    async def record_trigger(self, _: str) -> None:
        happened_at = datetime.now(UTC)
        await self.connection.execute("SELECT ensure_events_partition($1)", happened_at.date().replace(day=1))
        await self.connection.execute(
            """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                   historical, body)
               VALUES ('e-1', $1, 'user.signup', $2, 's', 0, 1, false, '\\x00')""",
            self.key.subject,
            happened_at,
        )
        await transitions.record_trigger(self.connection, ID, "e-1", happened_at)

    async def mark_cancelled(self, _: str) -> None:
        await transitions.cancel_withdrawn(self.connection, [(self.key.subject, "marketing")])

    def progress(self, status: str) -> Progress:
        return Progress(
            workflow_id="onboarding",
            instance_id=ID,
            user_id=self.key.subject,
            status=InstanceStatus(status),
            current_step="second",
            error=FAILURE if status == "failed" else None,
        )

    async def record_progress(self, target: str) -> None:
        await transitions.record_progress(self.connection, self.key, self.progress(target), RUN)

    async def finish(self, target: str) -> None:
        await terminal.finish(self.connection, self.key, self.progress(target), RUN)

    async def end_unrecorded(self, target: str) -> None:
        instance = Unfinished(ID, "onboarding", self.key.subject, "second", RUN)
        failure = FAILURE if target == "failed" else None
        ending = Ending(InstanceStatus(target), RUN, failure)
        await terminal.end_unrecorded(self.connection, self.cipher, instance, ending)

    async def lose(self, _: str) -> None:
        """The end of an instance whose history is lost."""
        instance = Unfinished(ID, "onboarding", self.key.subject, "second", RUN)
        ending = Ending(
            InstanceStatus.FAILED, RUN, history_lost(), "history_lost", problem=ProblemKind.HISTORY_LOST
        )
        await terminal.end_unrecorded(self.connection, self.cipher, instance, ending)

    async def end_unstarted(self, _: str) -> None:
        await terminal.end_unstarted(self.connection, ID, timedelta(minutes=1))

    async def request_replay(self, _: str) -> None:
        instance = Unfinished(ID, "onboarding", self.key.subject, "second", RUN)
        await dead_letters.record(self.connection, self.key, instance, RUN, FAILURE)
        letters = await self.connection.fetch("SELECT dead_letter_id FROM dead_letters")
        await transitions.request_replay(self.connection, [letter["dead_letter_id"] for letter in letters])

    async def reject_replay(self, _: str) -> None:
        await terminal.reject_replay(self.connection, self.key, ID, None)

    async def delete_unstarted(self, _: str) -> None:
        await transitions.delete_unstarted(self.connection, ID)

    async def delete_ended(self, _: str) -> None:
        await transitions.delete_ended(self.connection, [ID], datetime.now(UTC))


PRECONDITIONS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("insert", "failed"): {"run_id": None, "reason": "not_started"},
    **{("end_unstarted", state): {"run_id": None} for state in STATES if state != "cancelled"},
    ("delete_unstarted", "running"): {"run_id": None},
    ("begin_start", "running"): {"run_id": None},
}
"""Columns that a function asks for besides the state. Cancelling a cancelled instance again changes nothing."""
CASES = [
    (function, source, target)
    for function, edges in declared().items()
    for target in sorted({target for _, target in edges})
    for source in STATES
    if target == source or (source, source) not in edges or function == "record_progress"
]


@pytest.fixture
async def row(database: Database, cipher: Cipher, customer: Customer) -> AsyncIterator[Row]:
    async with database.transaction() as connection:
        yield Row(connection, cipher, await data_keys.require(connection, cipher, customer.user_id))


@pytest.mark.parametrize(("function", "source", "target"), CASES)
async def test_each_function_makes_its_transitions_and_no_other(
    row: Row, function: str, source: str, target: str
) -> None:
    call: Callable[[str], Awaitable[None]] = getattr(row, function)
    await row.set(source, **PRECONDITIONS.get((function, source), {}))
    before = await row.read()
    await call(target)
    after = await row.read()
    if (source, target) in declared()[function]:
        assert (after["status"] if after else NONE) == target
        assert after != before
    else:
        assert after == before


@pytest.mark.parametrize("function", ["enter_step", "record_progress", "finish", "end_unrecorded"])
@pytest.mark.parametrize("state", ["running", "paused"])
async def test_a_replaced_run_writes_nothing(row: Row, function: str, state: str) -> None:
    await row.set(state, replaced_runs=(RUN,))
    before = await row.read()
    await getattr(row, function)("failed" if function in ("finish", "end_unrecorded") else "paused")
    assert await row.read() == before


@pytest.mark.parametrize(
    ("function", "run_id", "reason"),
    [
        ("insert", RUN, "not_started"),
        ("insert", None, "history_lost"),
        ("end_unstarted", RUN, None),
        ("delete_unstarted", RUN, None),
    ],
)
async def test_an_instance_that_a_run_has_recorded_is_not_unstarted(
    row: Row, function: str, run_id: str | None, reason: str | None
) -> None:
    await row.set("failed" if function == "insert" else "running", run_id=run_id, reason=reason)
    before = await row.read()
    await getattr(row, function)("")
    assert await row.read() == before


async def _wait_and_callback(row: Row) -> None:
    await callbacks.add(row.connection, row.key, ID, "https://example.com/hook", new_secret())
    await row.connection.execute(
        """INSERT INTO event_waits (instance_id, step, workflow_id, user_id, event_type, since)
           VALUES ($1, 'wait', 'onboarding', $2, 'user.signup', now())""",
        ID,
        row.key.subject,
    )


@pytest.mark.parametrize(
    ("function", "target", "waits", "open_letters"),
    [
        ("finish", "completed", 0, 0),
        ("finish", "cancelled", 0, 0),
        ("finish", "failed", 1, 1),
        ("end_unrecorded", "cancelled", 0, 0),
        ("end_unrecorded", "failed", 1, 1),
        ("lose", "failed", 1, 1),
        ("end_unstarted", "cancelled", 0, 0),
        ("reject_replay", "failed", 1, 0),
    ],
)
async def test_each_end_has_its_effects_in_the_same_transaction(
    row: Row, function: str, target: str, waits: int, open_letters: int
) -> None:
    """Waits stay, and a dead letter opens, only where a replay is possible. The callback is always due."""
    await row.set("running", run_id=None if function == "end_unstarted" else RUN)
    await _wait_and_callback(row)
    await getattr(row, function)(target)
    fetchval = row.connection.fetchval
    assert await fetchval("SELECT count(*) FROM event_waits") == waits
    assert await fetchval("SELECT count(*) FROM dead_letters WHERE status = 'open'") == open_letters
    assert await fetchval("SELECT array_agg(kind) FROM temporal_outbox") == ["callback"]


@pytest.mark.parametrize(
    ("function", "target", "settled"),
    [
        ("finish", "completed", "replayed"),
        ("finish", "cancelled", "discarded"),
        ("finish", "failed", "replayed"),
        ("lose", "failed", "replayed"),
        ("end_unstarted", "cancelled", "discarded"),
    ],
)
async def test_each_end_settles_the_dead_letter_whose_replay_led_to_it(
    row: Row, function: str, target: str, settled: str
) -> None:
    await row.set("running", run_id=None if function == "end_unstarted" else RUN)
    await row.connection.execute(
        """INSERT INTO dead_letters (dead_letter_id, workflow_id, instance_id, user_id, failed_step, run_id,
                                     error_type, attempts, status)
           VALUES ('d-1', 'onboarding', $1, $2, 'first', 'run-0', 'Test', 1, 'replaying')""",
        ID,
        row.key.subject,
    )
    await getattr(row, function)(target)
    found = "SELECT status FROM dead_letters WHERE failed_step = 'first'"
    assert await row.connection.fetchval(found) == settled


async def test_cancelling_an_unstarted_instance_again_makes_no_second_callback_due(row: Row) -> None:
    """The outbox repeats the cancellation for a minute, and the callback may have been sent meanwhile."""
    await row.set("running", run_id=None)
    await _wait_and_callback(row)
    assert await terminal.end_unstarted(row.connection, ID, timedelta(minutes=1))
    await row.connection.execute("UPDATE callbacks SET status = 'delivered', attempts = 1")
    assert await terminal.end_unstarted(row.connection, ID, timedelta(minutes=1))
    sent = await row.connection.fetchrow("SELECT status, attempts FROM callbacks")
    assert sent is not None
    assert tuple(sent) == ("delivered", 1)
    assert await row.connection.fetchval("SELECT count(*) FROM temporal_outbox") == 1
