"""Workflow instances: new ones, and stored ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from models.temporal.execution import ExitRequest, RecordedEvent
from models.vocabulary import InstanceStatus, ProblemKind, Purpose


@dataclass(frozen=True)
class NewInstance:
    instance_id: str
    workflow_id: str
    user_id: str
    max_attempts: int
    parameters: dict[str, Any]
    started_by: str
    """The id of an API key, or ``trigger``."""
    purpose: Purpose | None = None
    """The consent that the instance needs while it runs."""
    exits: Sequence[ExitRequest] = ()
    trigger: RecordedEvent | None = None
    """The event that started it; None for a request."""
    key_digest: bytes | None = None
    """At most one instance with this digest runs; None for a workflow without a key."""
    limits_attempts: bool = False
    """Whether a request or an admin set ``max_attempts``, and not the workflow's definition."""


@dataclass(frozen=True)
class StoredTrigger:
    event_id: str
    event_type: str | None
    """None for instances of an earlier version whose event was no longer stored."""
    timestamp: datetime | None = None


@dataclass(frozen=True)
class StoredAttempt:
    step: str
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    error_type: str | None
    error_message: str | None
    interrupted: bool
    next_attempt_at: datetime | None
    """When a failed attempt is followed by another; None after the last one."""


@dataclass(frozen=True)
class StoredCallback:
    status: str
    attempts: int
    last_status: int | None
    last_attempt_at: datetime | None


@dataclass(frozen=True)
class Problem:
    """Why an unfinished instance doesn't go on."""

    kind: ProblemKind
    since: datetime
    """When it was found, at the latest."""


@dataclass(frozen=True)
class StoredInstance:
    """A row of `instances`, decrypted. Encrypted values are empty if the person's data key is destroyed."""

    instance_id: str
    workflow_id: str
    user_id: str
    status: InstanceStatus
    current_step: str | None
    run_id: str | None
    max_attempts: int
    parameters: dict[str, Any]
    variables: dict[str, Any]
    results: dict[str, Any]
    error: dict[str, Any] | None
    attempts: Sequence[StoredAttempt]
    start_time: datetime
    end_time: datetime | None
    reason: str | None = None
    """The reason of the end, if there is one."""
    bulk_id: str | None = None
    replaced_runs: Sequence[str] = ()
    """Temporal runs that a replay has replaced."""
    callback: StoredCallback | None = None
    trigger: StoredTrigger | None = None
    """The event that started it, if one did."""
    waits_until: Mapping[str, datetime] = field(default_factory=dict)
    """The deadlines of the waits under way, by step."""
    problem: Problem | None = None

    @property
    def waiting_until(self) -> datetime | None:
        """The earliest deadline of the waits under way; None without one, and after the end."""
        return None if self.end_time else min(self.waits_until.values(), default=None)

    @property
    def retrying(self) -> StoredAttempt | None:
        """The failed attempt whose successor is due first; None if no step waits for one."""
        latest = {each.step: each for each in self.attempts} if self.end_time is None else {}
        due = {
            each.next_attempt_at: each
            for step, each in latest.items()
            if each.next_attempt_at is not None and step not in self.results
        }
        return due[min(due)] if due else None

    @classmethod
    def started(cls, new: NewInstance, start_time: datetime, run_id: str) -> StoredInstance:
        return cls(
            instance_id=new.instance_id,
            workflow_id=new.workflow_id,
            user_id=new.user_id,
            status=InstanceStatus.RUNNING,
            current_step=None,
            run_id=run_id,
            max_attempts=new.max_attempts,
            parameters=new.parameters,
            variables={},
            results={},
            error=None,
            attempts=(),
            start_time=start_time,
            end_time=None,
        )
