"""Replays of dead letters, requested through the API and carried out by the outbox.

The request's transaction sets the instance to running and fences off the failed run: its late writes are dropped.
:mod:`store.instances.states` has the lock order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from asyncpg import Record
from pydantic import ValidationError
from sqlalchemy import and_, bindparam, delete, func, literal, or_
from sqlalchemy.orm import aliased
from sqlmodel import col

from models.errors import AlreadyRunningError, ConsentRequiredError, PerennialError, UserErasedError
from models.instances import NewInstance, StoredInstance
from models.rules.triggers import resolved
from models.tables.execution import DeadLetter, Instance, Message
from models.tables.people import Consent, User
from models.tables.people import DataKey as StoredKey
from models.temporal.ending import HISTORY_LOST
from models.temporal.execution import ConditionResult, LostRun, RecordedEvent, SleepResult, WaitResult
from models.temporal.starting import Startable, named_exits
from models.vocabulary import DeadLetterStatus, MessageStatus
from privacy.encryption import Cipher
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.instances import dead_letters, instances, terminal, transitions, triggers, waits
from store.instances.dead_letters import StoredDeadLetter
from store.instances.eligibility import account_error
from store.statements import Statement, one_of, select, statement
from store.users import data_keys

REPLAYED = "replay"


@dataclass(frozen=True)
class Requested:
    accepted: list[StoredDeadLetter]
    rejected: list[tuple[StoredDeadLetter, PerennialError]]


async def request(connection: Connection, cipher: Cipher, dead_letter_id: str) -> StoredDeadLetter:
    """Request the replay of one dead letter.

    Raises :class:`DeadLetterNotFoundError`, :class:`AlreadyReplayingError`, :class:`AlreadySettledError`,
    :class:`UserErasedError`, :class:`AccountClosedError`, :class:`AccountSuspendedError`,
    :class:`ConsentRequiredError`, or :class:`AlreadyRunningError` if another instance with its key runs.
    """
    dead_letter = await dead_letters.find(connection, cipher, dead_letter_id)
    requested = await request_all(connection, [dead_letter], pause=timedelta())
    for _, error in requested.rejected:
        raise error
    return await dead_letters.find(connection, cipher, dead_letter_id)


async def request_all(
    connection: Connection, letters: Sequence[StoredDeadLetter], *, pause: timedelta
) -> Requested:
    """Request the replays of dead letters, one every ``pause``."""
    await locks.share(connection, {letter.user_id for letter in letters})
    requested = await _divide(connection, letters, _LOCK_AND_CHECK)
    if accepted := requested.accepted:
        ids = [letter.dead_letter_id for letter in accepted]
        await transitions.request_replay(connection, ids)
        await dead_letters.begin_replay(connection, ids)
        # The provider rejected these messages, so they were never sent. The replay renders them anew, for the
        # current address.
        await _DELETE_REJECTED_MESSAGES.execute(connection, dead_letter_ids=ids)
        await outbox.write_replays(connection, accepted, pause)
    return requested


async def check_all(connection: Connection, letters: Sequence[StoredDeadLetter]) -> Requested:
    """Tell which dead letters can be replayed now. Changes and locks nothing."""
    return await _divide(connection, letters, _CHECK)


_DELETE_REJECTED_MESSAGES = statement(
    delete(Message).where(
        one_of(col(DeadLetter.dead_letter_id), "dead_letter_ids"),
        col(Message.instance_id) == col(DeadLetter.instance_id),
        col(Message.step) == col(DeadLetter.failed_step),
        col(Message.status) == MessageStatus.REFUSED.value,
    )
)

_OTHER = aliased(Instance, name="other")
_OF_LETTERS = (
    select(
        col(DeadLetter.dead_letter_id),
        col(DeadLetter.status),
        col(Instance.instance_id),
        col(Instance.workflow_id),
        col(Instance.user_id),
        col(Instance.key_digest),
        select(col(_OTHER.instance_id))
        .where(col(_OTHER.key_digest) == col(Instance.key_digest), col(_OTHER.end_time).is_(None))
        .exists()
        .label("key_runs"),
        col(StoredKey.wrapped).is_(None).label("erased"),
        col(Instance.purpose),
        col(User.account_status),
        or_(col(Instance.purpose).is_(None), func.coalesce(col(Consent.granted), literal(value=False))).label(
            "consented"
        ),
    )
    .join(Instance, col(Instance.instance_id) == col(DeadLetter.instance_id))
    .outerjoin(StoredKey, col(StoredKey.subject) == col(Instance.user_id))
    .outerjoin(User, col(User.user_id) == col(Instance.user_id))
    .outerjoin(
        Consent,
        and_(col(Consent.user_id) == col(Instance.user_id), col(Consent.purpose) == col(Instance.purpose)),
    )
    .where(one_of(col(DeadLetter.dead_letter_id), "dead_letter_ids"))
    .order_by(col(Instance.instance_id))
)
_CHECK = statement(_OF_LETTERS)
_LOCK_AND_CHECK = statement(_OF_LETTERS.with_for_update(of=[Instance, DeadLetter]))


async def _divide(connection: Connection, letters: Sequence[StoredDeadLetter], check: Statement) -> Requested:
    """The letters that can be replayed, and the others with their errors."""
    rows = await check.fetch(connection, dead_letter_ids=[letter.dead_letter_id for letter in letters])
    errors = {row["dead_letter_id"]: _error(row) for row in rows}
    keyed = [row for row in rows if row["key_digest"] is not None and errors[row["dead_letter_id"]] is None]
    taken: set[bytes] = set()
    for row in sorted(keyed, key=lambda row: row["key_digest"]):  # all replays lock windows in this order
        free = not row["key_runs"] if check is _CHECK else await _hold_key(connection, row)
        if row["key_digest"] in taken or not free:
            errors[row["dead_letter_id"]] = AlreadyRunningError(keyed=True)
        taken.add(row["key_digest"])
    found = [(letter, errors[letter.dead_letter_id]) for letter in letters]
    return Requested(
        [letter for letter, error in found if error is None],
        [(letter, error) for letter, error in found if error is not None],
    )


async def _hold_key(connection: Connection, row: Record) -> bool:
    """Take the window of an instance's key; False while another instance with the key runs."""
    again = NewInstance(
        row["instance_id"], row["workflow_id"], row["user_id"], 1, {}, "", key_digest=row["key_digest"]
    )
    return await triggers.open_window(connection, again, None)


def _error(row: Record) -> PerennialError | None:
    if row["status"] != DeadLetterStatus.OPEN:
        return dead_letters.not_open(DeadLetterStatus(row["status"]))
    if row["erased"]:
        return UserErasedError()
    if (error := account_error(row["account_status"], row["purpose"])) is not None:
        return error
    if not row["consented"]:
        return ConsentRequiredError("The person has withdrawn the consent that this instance rests on.")
    return None


_LOCK = statement(
    select(col(Instance.instance_id))
    .where(col(Instance.instance_id) == bindparam("instance_id"))
    .with_for_update(key_share=True)
)


async def reject(connection: Connection, cipher: Cipher, letter: StoredDeadLetter) -> None:
    """Undo a request that Temporal can't carry out: fail the instance again, and open its dead letter."""
    await _LOCK.execute(connection, instance_id=letter.instance_id)
    reopened = await dead_letters.reopen(connection, letter)
    key = (await data_keys.find(connection, cipher, [letter.user_id])).get(letter.user_id)
    if reopened and key is not None:
        lost = letter.error_type == HISTORY_LOST
        await terminal.reject_replay(connection, key, letter.instance_id, letter.error, lost=lost)


async def requested(connection: Connection, cipher: Cipher, dead_letter_id: str) -> StoredDeadLetter | None:
    """The dead letter; None if its replay is no longer requested."""
    letter = await dead_letters.find(connection, cipher, dead_letter_id)
    return letter if letter.status is DeadLetterStatus.REPLAYING else None


@dataclass(frozen=True)
class Restart:
    """The start of an instance whose history Temporal has lost."""

    new: NewInstance
    lost_run: LostRun
    replaced_runs: Sequence[str]


async def prepare_restart(
    connection: Connection, cipher: Cipher, workflow: Startable, instance_id: str
) -> Restart | None:
    """Prepare the start of an instance with the parameters that it had; None if it has ended.

    Its exits are those of the present definition, registered in place of the old ones. They count the same events,
    since the instance keeps its trigger and its start time. Repeating it changes nothing. Raises
    :class:`ParameterMissingError` if one of these exits needs a parameter that the instance doesn't have.
    """
    await _LOCK.execute(connection, instance_id=instance_id)
    stored = await instances.find(connection, cipher, instance_id)
    if stored is None or stored.status.finished:
        return None
    new = NewInstance(
        instance_id=instance_id,
        workflow_id=workflow.workflow_id,
        user_id=stored.user_id,
        max_attempts=stored.max_attempts,
        limits_attempts=stored.max_attempts != workflow.max_attempts,
        parameters=stored.parameters,
        started_by=REPLAYED,
        purpose=workflow.purpose,
        exits=resolved(workflow.exits, {**workflow.default_parameters, **stored.parameters}),
        trigger=_trigger(stored),
    )
    key = await data_keys.require(connection, cipher, stored.user_id)
    await waits.replace_exits(connection, key, instance_id, named_exits(new.exits))
    ended = {step: wait for step, result in stored.results.items() if (wait := _wait_result(result)) is not None}
    return Restart(
        new,
        LostRun(ended=ended, waits_until=dict(stored.waits_until), started_at=stored.start_time),
        stored.replaced_runs,
    )


def _trigger(stored: StoredInstance) -> RecordedEvent | None:
    trigger = stored.trigger
    if trigger is None or trigger.event_type is None or trigger.timestamp is None:
        return None
    return RecordedEvent(event_id=trigger.event_id, event_type=trigger.event_type, timestamp=trigger.timestamp)


def _wait_result(result: Any) -> WaitResult | SleepResult | ConditionResult | None:
    """The stored result as that of a wait or a condition; None for other steps' results."""
    for kind in (WaitResult, SleepResult, ConditionResult):
        with contextlib.suppress(ValidationError):
            return kind.model_validate({**result, "position": 0} if isinstance(result, Mapping) else None)
    return None


async def signal_missed_events(connection: Connection, cipher: Cipher, letter: StoredDeadLetter) -> None:
    """Signal events to the waits of a replayed instance, since no run received those after the failure.

    The workflow ignores an event that it has already received.
    """
    key = await data_keys.require(connection, cipher, letter.user_id)
    registered = await waits.of_instance(connection, key, letter.instance_id)
    asked = {waiting.step: waiting.request for waiting in registered}
    events = await waits.already_recorded(connection, key, letter.instance_id, letter.user_id, asked)
    for waiting in registered:
        missed = [event for event in events if event.step == waiting.step]
        await outbox.write_signals(connection, waiting, letter.user_id, missed)
