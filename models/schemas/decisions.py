"""Schemas of `/users/{user_id}/decisions`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from models.schemas.fields import ResponseSchema


class DecisionView(ResponseSchema):
    """A trigger that was not followed, or a message that was not sent."""

    at: datetime = Field(
        description="When it was decided. Of several triggers: the latest. Of a message: when it was written."
    )
    workflow_id: str
    event_id: str | None = Field(
        description="The trigger's event. Of a message: the event that started its instance; null after a request."
    )
    decision: Literal["not_started", "not_sent"]
    reason: str = Field(
        description="`not_started`: `too_old`, `consent_required`, `disabled`, `account_closed`, "
        "`account_suspended`, `window_used`, `already_running`, `parameter_missing`. `not_sent`: the reason of "
        "the message, or its status `withdrawn` or `refused`.",
        examples=["consent_required"],
    )
    times: int = Field(
        default=1, description="Triggers of this workflow with this reason in the same hour count as one decision."
    )
    first_at: datetime | None = Field(description="The first of these triggers; null for a message.")
    first_event_id: str | None = Field(description="Its event; null for a message.")
    instance_id: str | None = Field(description="The instance of a message; null for a trigger.")
    message_id: str | None
    template: str | None
