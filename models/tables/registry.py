"""All tables, for migrations, the data map and the tests."""

from __future__ import annotations

from sqlmodel import SQLModel

from models.tables.access import ApiKey, IdempotentAnswer, RateWindow
from models.tables.execution import Attempt, Instance, OutboxMessage, Step, WorkflowSetting
from models.tables.people import Consent, ConsentRecord, DataKey, User

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
    OutboxMessage,
    WorkflowSetting,
)

metadata = SQLModel.metadata
