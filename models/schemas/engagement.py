"""The engagement score of a user, explained."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from models.schemas.fields import ResponseSchema


class EngagementTerm(ResponseSchema):
    """One of the three terms of the score."""

    name: str = Field(json_schema_extra={"enum": ["recency", "frequency", "depth"]})
    weight: float = Field(description="Its share of the score.", examples=[0.4])
    value: float = Field(description="0 to 1.", examples=[0.7071])
    points: float = Field(
        description="100 · `weight` · `value`, in tenths; rounded so that the terms add up to the score.",
        examples=[28.3],
    )
    inputs: dict[str, datetime | float | None] = Field(
        description="Of recency: `last_session_date`, `days`; of frequency: `decayed_sessions`; of depth: "
        "`decayed_actions`.",
        examples=[{"decayed_sessions": 2.048}],
    )


class EngagementEvent(ResponseSchema):
    """An event that counts in `decayed_actions`."""

    event_id: str
    event_type: str
    timestamp: datetime
    weight: int = Field(description="Of its type.", examples=[8])
    contribution: float = Field(description="`weight` · 2^(-days since `timestamp` / 14).", examples=[6.7272])


class EngagementView(ResponseSchema):
    """How the score comes about. All is null without the consent `profiling`."""

    user_id: str
    as_of: datetime
    engagement_score: float | None = Field(description="0 to 100, in tenths.")
    terms: list[EngagementTerm] | None
    top_events: list[EngagementEvent] | None = Field(
        description="Of the latest 2,000 stored events the ten that contribute most, the largest first."
    )
