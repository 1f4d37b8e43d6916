"""Events that an instance was notified of: which wait or exit gets which."""

from __future__ import annotations

from datetime import UTC, datetime

from models.temporal.execution import ExitRequest, RecordedEvent
from workflows.inbox import Inbox

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def event(event_id: str, event_type: str = "a.b", step: str | None = None) -> RecordedEvent:
    return RecordedEvent(event_id=event_id, event_type=event_type, timestamp=NOW, step=step)


def test_a_wait_gets_the_first_event_for_it_that_no_other_wait_took() -> None:
    inbox = Inbox([])
    for each in (event("taken"), event("free"), event("late", step="open"), event("past", step="ended")):
        inbox.add(each)
    inbox.take(event("taken"))
    inbox.add(event("taken"))
    inbox.add(event("free"))
    first = inbox.first("open", "*")
    assert first is not None
    assert first.event_id == "free"
    inbox.take(first)
    assert (inbox.first("open", "a.b") or first).event_id == "late"
    assert inbox.first("other", "a.*") is None
    assert inbox.first("open", "a.b", since=NOW.replace(hour=13)) is None


def test_the_first_exit_counts_and_one_with_a_filter_only_by_its_name() -> None:
    exits = [
        ExitRequest(event_type="cart.buy", where={"currency": "EUR"}, reason="bought"),
        ExitRequest(event_type="cart.*", reason="touched"),
    ]
    inbox = Inbox(exits)
    assert list(inbox.exits) == ["~exit_1", "~exit_2"]
    inbox.add(event("e-1", "cart.buy", step="somewhere"))
    assert exit_of(inbox) is None
    inbox.add(event("e-2", "cart.buy", step="~exit_1"))
    inbox.add(event("e-3", "cart.drop"))
    assert exit_of(inbox) == ("bought", "e-2")


def exit_of(inbox: Inbox) -> tuple[str, str] | None:
    return None if inbox.exit is None else (inbox.exit[0].reason, inbox.exit[1].event_id)
