"""What a run hands to the next, taken apart: results with their types, failures, deadlines, events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ActivityError, ApplicationError

from activities.messages import Messages
from models.temporal.execution import Carried, Delivery, DoneWait, ExitRequest, RecordedEvent
from models.vocabulary import MessageStatus, Suppression
from workflows.interceptors import failure_of
from workflows.memory import Inbox, Memory, step_failure

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def carried_by(memory: Memory, inbox: Inbox | None = None) -> Carried:
    """What the next run gets, through JSON as Temporal carries it."""
    handed = Carried(
        began_at=memory.began_at,
        current_step=None,
        steps=memory.steps,
        waits=memory.waits,
        deadlines=memory.deadlines,
        positions=memory.positions,
        told=inbox.untaken(list(memory.deadlines)) if inbox else [],
        taken=sorted(inbox.taken) if inbox else [],
    )
    return Carried.model_validate_json(handed.model_dump_json())


def event(event_id: str, event_type: str = "a.b", step: str | None = None) -> RecordedEvent:
    return RecordedEvent(event_id=event_id, event_type=event_type, timestamp=NOW, step=step)


def test_a_result_comes_back_as_what_the_activity_gives_and_at_its_time() -> None:
    first = Memory(None, NOW)
    delivery = Delivery(message_id="m", status=MessageStatus.SUPPRESSED, reason=Suppression.FREQUENCY_CAP)
    first.did("send", delivery, NOW + timedelta(days=1))
    second = Memory(carried_by(first), NOW + timedelta(days=99))
    assert second.moment == NOW
    assert second.retell("send", Messages.send) == delivery
    assert second.moment == NOW + timedelta(days=1)


def test_a_failure_that_the_journey_lived_with_comes_back_as_the_same_failure() -> None:
    first = Memory(None, NOW)
    error = ActivityError(
        "failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="messages.send",
        activity_id="send",
        retry_state=None,
    )
    error.__cause__ = ApplicationError("no such mailbox", type="MessageRejectedError")
    first.failed("send", error, NOW)
    with pytest.raises(ActivityError) as again:
        Memory(carried_by(first), NOW).retell("send", Messages.send)
    told = failure_of(again.value)
    assert (told.error_type, told.error_message, told.failed_step) == (
        "MessageRejectedError",
        "no such mailbox",
        "send",
    )


def test_an_open_wait_keeps_its_deadline_and_its_place_and_an_ended_one_its_event() -> None:
    first = Memory(None, NOW)
    assert [first.position_of(name) for name in ("one", "two", "one")] == [1, 2, 1]
    first.begin_wait("one", NOW + timedelta(hours=1))
    first.begin_wait("two", NOW + timedelta(days=3))
    first.ended("one", DoneWait(event=event("e-1"), at=NOW))
    second = Memory(carried_by(first), NOW + timedelta(days=1))
    assert second.holds("one")
    assert not second.holds("two")
    assert second.retell_wait("one").event == event("e-1")
    assert second.begin_wait("two", NOW + timedelta(days=50)) == NOW + timedelta(days=3)
    assert second.moment is None
    assert second.position_of("two") == 2


def test_it_is_the_present_once_anything_happens_whichever_branch_was_told_again_last() -> None:
    first = Memory(None, NOW)
    first.begin_wait("long", NOW + timedelta(days=9))
    first.begin_wait("short", NOW + timedelta(days=1))
    first.ended("short", DoneWait(at=NOW + timedelta(days=1)))
    later = NOW + timedelta(days=9)
    happenings: tuple[Callable[[Memory], None], ...] = (
        lambda memory: memory.ended("long", DoneWait(at=later)),
        lambda memory: memory.did("step", None, later),
        lambda memory: memory.failed("step", step_failure("step", ApplicationError("no")), later),
    )
    for happens in happenings:
        second = Memory(carried_by(first), later)
        second.begin_wait("long", later)
        second.retell_wait("short")
        happens(second)
        assert second.moment is None


def test_events_that_nobody_took_are_handed_on_and_those_taken_stay_taken() -> None:
    memory = Memory(None, NOW)
    memory.begin_wait("open", NOW + timedelta(days=1))
    inbox = Inbox([], None)
    for each in (event("taken"), event("free"), event("late", step="open"), event("past", step="ended")):
        inbox.tell(each)
    inbox.take(event("taken"))
    after = Inbox([], carried_by(memory, inbox))
    after.tell(event("taken"))
    after.tell(event("free"))
    assert [each.event_id for each in after.told] == ["free", "late", "taken"]
    first = after.first("open", "*")
    assert first is not None
    assert first.event_id == "free"
    after.take(first)
    assert (after.first("open", "a.b") or first).event_id == "late"
    assert after.first("other", "a.*") is None


def test_the_first_exit_counts_and_one_with_a_filter_only_by_its_name() -> None:
    exits = [
        ExitRequest(event_type="cart.buy", where={"currency": "EUR"}, reason="bought"),
        ExitRequest(event_type="cart.*", reason="touched"),
    ]
    inbox = Inbox(exits, None)
    assert list(inbox.exits) == ["~exit_1", "~exit_2"]
    inbox.tell(event("e-1", "cart.buy", step="somewhere"))
    assert reason_for_leaving(inbox) is None
    inbox.tell(event("e-2", "cart.buy", step="~exit_1"))
    inbox.tell(event("e-3", "cart.drop"))
    assert reason_for_leaving(inbox) == ("bought", "e-2")


def reason_for_leaving(inbox: Inbox) -> tuple[str, str] | None:
    return None if inbox.leaving is None else (inbox.leaving[0].reason, inbox.leaving[1].event_id)
