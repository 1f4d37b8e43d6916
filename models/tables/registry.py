"""All tables, for migrations, the data map and tests."""

from __future__ import annotations

from sqlmodel import SQLModel

from models.tables.access import ApiKey, IdempotentAnswer, RateWindow, ReplacedSecret
from models.tables.audit import AuditCheckpoint, AuditRow
from models.tables.events import (
    Event,
    EventId,
    EventType,
    EventTypeVersion,
    LogCursor,
    LogGeneration,
    PoisonEvent,
    Redaction,
)
from models.tables.execution import (
    Attempt,
    Callback,
    DeadLetter,
    Decision,
    Instance,
    Message,
    Step,
    TriggerWindow,
    WorkflowSetting,
)
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
from models.tables.retention import RetentionPeriod, RetentionResult, RetentionRunRow
from models.tables.rollups import (
    RollupDelta,
    RollupHour,
    RollupIndex,
    RollupPeople,
    RollupSeries,
    RollupSession,
)

TABLES: tuple[type[SQLModel], ...] = (
    User,
    DataKey,
    Consent,
    ConsentRecord,
    ApiKey,
    ReplacedSecret,
    RateWindow,
    IdempotentAnswer,
    Instance,
    Step,
    Attempt,
    DeadLetter,
    Callback,
    Message,
    TriggerWindow,
    Decision,
    WorkflowSetting,
    Event,
    EventId,
    EventType,
    EventTypeVersion,
    LogGeneration,
    LogCursor,
    PoisonEvent,
    Redaction,
    RetentionPeriod,
    RetentionRunRow,
    RetentionResult,
    Session,
    Transaction,
    UserActivity,
    FeatureUsage,
    PurchaseTotal,
    EventWait,
    TemporalOutbox,
    RollupSeries,
    RollupDelta,
    RollupHour,
    RollupSession,
    RollupPeople,
    RollupIndex,
    AuditRow,
    AuditCheckpoint,
)

metadata = SQLModel.metadata
