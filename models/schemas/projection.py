"""What the projector has made of events: transactions, and events that it had to set aside."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from models.schemas.fields import ResponseSchema


class TransactionView(ResponseSchema):
    """A purchase or refund, with a reference to the event it came from."""

    event_id: str
    kind: str = Field(json_schema_extra={"enum": ["purchase", "refund"]})
    order_id: str | None
    amount: str = Field(description="A decimal, never below zero.", examples=["29.53"])
    currency: str = Field(examples=["USD"])
    occurred_at: datetime


class PoisonEventView(ResponseSchema):
    """An event that was set aside, so that those behind it could go on."""

    poison_id: str
    consumer: str = Field(description="Who could not take it.", examples=["projector"])
    event_id: str
    user_id: str
    timestamp: datetime = Field(description="The event's.")
    tries: int
    error_type: str
    status: str = Field(json_schema_extra={"enum": ["open", "replayed", "discarded"]})
    set_aside_at: datetime
