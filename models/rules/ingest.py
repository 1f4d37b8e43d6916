"""Checks an event's content and prepares its row before the transaction begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import orjson

from models.errors import FieldError
from models.rules import profile_changes
from models.rules.event_privacy import standard_dimensions
from models.rules.event_types import EventType, depth_exceeds
from models.rules.personal_text import looks_personal
from models.rules.profile_changes import PROFILE_UPDATE

MAX_AHEAD = timedelta(hours=24)
MAX_PROPERTIES_BYTES = 32 * 1024
MAX_GROUP_BYTES = 8 * 1024  # of `device_info`, of `location` and of `referrer`
MAX_DEPTH = 16
_MOST_JUDGED = 100
"""Values of an event, of which more than one error may be shown."""
_NONE: Mapping[str, Any] = {}

Status = Literal["accepted", "duplicate", "rejected"]


@dataclass(frozen=True, slots=True)
class IngestResult:
    """Pointers of ``errors`` are relative to the event."""

    status: Status
    errors: tuple[FieldError, ...] = ()


ACCEPTED = IngestResult("accepted")
DUPLICATE = IngestResult("duplicate")


def rejected(*errors: FieldError) -> IngestResult:
    return IngestResult("rejected", errors)


USER_UNKNOWN = rejected(FieldError("/user_id", "user_unknown", "No user has this id."))
USER_ERASED = rejected(FieldError("/user_id", "user_erased", "belongs to a user who has been erased"))
DATA_UNREADABLE = rejected(
    FieldError("/user_id", "data_unreadable", "belongs to a user whose data key is damaged")
)
CONSENT_REQUIRED = rejected(
    FieldError("/user_id", "consent_required", "needs the user's consent 'data_collection'")
)
EVENT_ID_CONFLICT = rejected(
    FieldError("/event_id", "event_id_conflict", "belongs to an event of another user or type")
)
IN_FUTURE = rejected(FieldError("/timestamp", "timestamp_in_future", "must be at most 24 hours ahead"))
EXPIRED = rejected(FieldError("/timestamp", "event_expired", "is older than the retention period of events"))


@dataclass(slots=True)
class PreparedEvent:
    """An event whose content is valid. The store still checks the user, the consent and the id."""

    event_id: str
    user_id: str
    event_type: str
    timestamp: datetime
    session_id: str
    historical: bool
    parts: Mapping[str, Any]
    """The sent ones of `event_properties`, `device_info`, `location` and `referrer`."""
    body: bytes
    """``parts`` as JSON."""
    declared: EventType | None

    def dimensions(self, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """The values of ``parts`` that are stored unencrypted; None if there are none."""
        found: dict[str, Any] = {}
        if self.declared is not None and self.declared.dimensions:
            found = self.declared.dimensions_of(parts.get("event_properties") or _NONE)
        if "location" in parts or "device_info" in parts:
            found |= standard_dimensions(parts)
        return found or None


@dataclass(frozen=True, slots=True)
class Window:
    """The times between which events are accepted."""

    oldest: datetime
    latest: datetime

    @classmethod
    def of(cls, now: datetime, days: int) -> Window:
        """``days`` is the retention period of events."""
        return cls(now - timedelta(days=days), now + MAX_AHEAD)

    def refusal(self, timestamp: datetime) -> IngestResult | None:
        if timestamp > self.latest:
            return IN_FUTURE
        return EXPIRED if timestamp < self.oldest else None


def content_errors(parts: Mapping[str, Any], body: bytes, declared: EventType | None) -> list[FieldError]:
    """Errors in size, depth and schema. Pointers are relative to the event."""
    errors = _size_errors(parts, body)
    if not errors and declared is not None:
        # The validator makes all errors before it shows the first one: ten milliseconds for a thousand.
        many = body.count(b",") > _MOST_JUDGED
        found = declared.errors(parts.get("event_properties") or _NONE, first=many)
        if not found and declared.event_type == PROFILE_UPDATE:
            found = profile_changes.errors(parts.get("event_properties") or _NONE)
        errors = [error.with_prefix("/event_properties") for error in found]
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
) -> PreparedEvent | IngestResult:
    body = orjson.dumps(parts)
    errors = [*_id_errors(event_id, session_id), *content_errors(parts, body, declared)]
    if errors:
        return rejected(*errors)
    return PreparedEvent(event_id, user_id, event_type, timestamp, session_id, historical, parts, body, declared)


_session_looks_personal = lru_cache(maxsize=8192)(looks_personal)  # a session has many events


def _id_errors(event_id: str, session_id: str) -> Iterator[FieldError]:
    if looks_personal(event_id):
        yield _personal_id("event_id")
    if _session_looks_personal(session_id):
        yield _personal_id("session_id")


def _personal_id(name: str) -> FieldError:
    message = "must not be an e-mail address or a telephone number: it is stored unencrypted"
    return FieldError(f"/{name}", f"{name}_is_personal", message)


def _size_errors(parts: Mapping[str, Any], body: bytes) -> list[FieldError]:
    errors = []
    if len(body) > MAX_GROUP_BYTES:  # else no part can exceed its limit: nothing is serialised again
        for part, value in parts.items():
            limit = MAX_PROPERTIES_BYTES if part == "event_properties" else MAX_GROUP_BYTES
            if len(orjson.dumps(value)) > limit:
                errors.append(FieldError(f"/{part}", "too_large", f"must have at most {limit} bytes"))
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:  # else nothing can be nested too deep
        for part, value in parts.items():
            if depth_exceeds(value, MAX_DEPTH):
                errors.append(
                    FieldError(f"/{part}", "too_deep", f"must have at most {MAX_DEPTH} levels of nesting")
                )
    return errors
