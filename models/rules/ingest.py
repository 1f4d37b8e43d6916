"""From a valid event to what is stored of it: pure, and once for each event before its transaction begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import orjson

from models.errors import FieldError
from models.rules.event_privacy import standard_dimensions
from models.rules.event_types import EventType, depth_exceeds

MAX_AHEAD = timedelta(hours=24)
MAX_PROPERTIES_BYTES = 32 * 1024
MAX_GROUP_BYTES = 8 * 1024
"""Of `device_info` and of `location`."""
MAX_DEPTH = 16
_NONE: Mapping[str, Any] = {}

Status = Literal["accepted", "duplicate", "rejected"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event; rejected for the errors, whose pointers are into the event."""

    status: Status
    errors: tuple[FieldError, ...] = ()


ACCEPTED = Outcome("accepted")
DUPLICATE = Outcome("duplicate")


def rejected(*errors: FieldError) -> Outcome:
    """Not stored, for these errors."""
    return Outcome("rejected", errors)


USER_UNKNOWN = rejected(FieldError("/user_id", "user_unknown", "No user has this id."))
USER_ID_RESERVED = rejected(FieldError("/user_id", "user_id_reserved", "is a reserved word"))
USER_ERASED = rejected(FieldError("/user_id", "user_erased", "belongs to a user who has been erased"))
CONSENT_REQUIRED = rejected(FieldError("/user_id", "consent_required", "needs the consent 'data_collection'"))
EVENT_ID_CONFLICT = rejected(
    FieldError("/event_id", "event_id_conflict", "belongs to an event of another user or type")
)
IN_FUTURE = rejected(FieldError("/timestamp", "timestamp_in_future", "must be at most 24 hours ahead"))
EXPIRED = rejected(FieldError("/timestamp", "event_expired", "is older than events are kept"))


@dataclass(slots=True)
class NewEvent:
    """An event that is ready to be stored, if its person permits it."""

    event_id: str
    user_id: str
    event_type: str
    timestamp: datetime
    session_id: str
    historical: bool
    parts: Mapping[str, Any]
    """What the body holds: `event_properties`, `device_info`, `location`, `referrer` where they were sent."""
    body: bytes
    """``parts`` as JSON."""
    declared: EventType | None

    def dimensions(self, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """What of the body is kept in the clear."""
        found: dict[str, Any] = {}
        if self.declared is not None and self.declared.dimensions:
            found = self.declared.dimensions_of(parts.get("event_properties") or _NONE)
        if "location" in parts or "device_info" in parts:
            found |= standard_dimensions(parts)
        return found or None


@dataclass(frozen=True, slots=True)
class Window:
    """Between which times events are taken."""

    oldest: datetime
    latest: datetime

    @classmethod
    def of(cls, now: datetime, days: int) -> Window:
        """The window at a moment, with events kept for so many days."""
        return cls(now - timedelta(days=days), now + MAX_AHEAD)

    def refusal(self, timestamp: datetime) -> Outcome | None:
        """Why a time isn't taken; None where it is."""
        if timestamp > self.latest:
            return IN_FUTURE
        return EXPIRED if timestamp < self.oldest else None


def content_errors(parts: Mapping[str, Any], body: bytes, declared: EventType | None) -> list[FieldError]:
    """What is wrong with the content of an event: its size, its depth, and what its type's schema says."""
    errors = _size_errors(parts, body)
    if not errors and declared is not None:
        found = declared.errors(parts.get("event_properties") or _NONE)
        errors = [error.below("/event_properties") for error in found]
    return errors


def prepare(
    *,
    event_id: str,
    user_id: str,
    event_type: str,
    timestamp: datetime,
    session_id: str,
    parts: Mapping[str, Any],
    declared: EventType | None,
    historical: bool,
) -> NewEvent | Outcome:
    """An event ready to be stored, or why its content isn't taken."""
    body = orjson.dumps(parts)
    errors = content_errors(parts, body, declared)
    if errors:
        return rejected(*errors)
    return NewEvent(event_id, user_id, event_type, timestamp, session_id, historical, parts, body, declared)


def _size_errors(parts: Mapping[str, Any], body: bytes) -> list[FieldError]:
    errors = []
    if len(body) > MAX_GROUP_BYTES:
        for part, value in parts.items():
            limit = MAX_PROPERTIES_BYTES if part == "event_properties" else MAX_GROUP_BYTES
            if len(orjson.dumps(value)) > limit:
                errors.append(FieldError(f"/{part}", "too_large", f"must have at most {limit} bytes"))
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        for part, value in parts.items():
            if depth_exceeds(value, MAX_DEPTH):
                errors.append(
                    FieldError(f"/{part}", "too_deep", f"must be nested {MAX_DEPTH} levels deep at most")
                )
    return errors
