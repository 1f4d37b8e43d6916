"""All tables, for migrations, the data map and the tests."""

from __future__ import annotations

from sqlmodel import SQLModel

from models.tables.access import ApiKey, IdempotentAnswer, RateWindow
from models.tables.events import (
    Event,
    EventId,
    EventType,
    LogCursor,
    LogGeneration,
    PoisonEvent,
    RetentionPeriod,
)
from models.tables.execution import Attempt, Callback, DeadLetter, Instance, OutboxMessage, Step, WorkflowSetting
from models.tables.people import Consent, ConsentRecord, DataKey, User
from models.tables.projections import (
    EventWait,
    FeatureUsage,
    PurchaseTotal,
    Session,
    TemporalOutbox,
    Transaction,
    UserActivity,
)

TABLES: tuple[type[SQLModel], ...] = (
    User,
    DataKey,
    Consent,
    ConsentRecord,
    ApiKey,
    RateWindow,
    IdempotentAnswer,
    Instance,
    Step,
    Attempt,
    DeadLetter,
    Callback,
    OutboxMessage,
    WorkflowSetting,
    Event,
    EventId,
    EventType,
    LogGeneration,
    LogCursor,
    PoisonEvent,
    RetentionPeriod,
    Session,
    Transaction,
    UserActivity,
    FeatureUsage,
    PurchaseTotal,
    EventWait,
    TemporalOutbox,
)

metadata = SQLModel.metadata
