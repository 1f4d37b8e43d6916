"""Events as each role sees them."""

from __future__ import annotations

from api.masking import event_body_for
from models.rules.event_types import EventType
from models.schemas.events import EventView
from models.vocabulary import Role
from store.events.events import StoredEvent


def event_view(role: Role, stored: StoredEvent, declared: EventType | None) -> EventView:
    """An event as a role reads it: masked, unless the role sees people."""
    body = event_body_for(role, stored.body, declared)
    return EventView(
        event_id=stored.event_id,
        user_id=stored.user_id,
        event_type=stored.event_type,
        timestamp=stored.timestamp,
        session_id=stored.session_id,
        event_properties=body.get("event_properties"),
        device_info=body.get("device_info"),
        location=body.get("location"),
        referrer=body.get("referrer"),
        historical=stored.historical,
        received_at=stored.received_at,
    )
