"""Names of an instance's steps, waits and conditions, and what the Web UI shows of them."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from models.temporal.identity import STATUS, STEP
    from models.vocabulary import InstanceStatus

LONG_HISTORY = "The history is long: let the journey end, and a trigger start the workflow again."


class Names:
    """Makes names unique in an instance: ``remind``, ``remind_2``."""

    def __init__(self) -> None:
        self.positions: dict[str, int] = {}
        """The ordinal of each name, from 1."""
        self._counts: dict[str, int] = {}

    def unique(self, name: str) -> str:
        count = self._counts[name] = self._counts.get(name, 0) + 1
        unique = name if count == 1 else f"{name}_{count}"
        self.positions[unique] = len(self.positions) + 1
        return unique


def show_details(description: str, step: str, *, long: bool) -> None:
    warning = f"\n\n{LONG_HISTORY}" if long else ""
    workflow.set_current_details(f"{description}\n\nNow: `{step}`{warning}")


def show_status(status: InstanceStatus, step: str | None) -> None:
    workflow.upsert_search_attributes([STATUS.value_set(status.value), STEP.value_set(step or "")])
