"""The names that a lifecycle workflow's file imports.

This module passes through the sandbox, so the file needs no ``workflow.unsafe.imports_passed_through()``. The
sandbox still restricts the file itself.
"""

from temporalio.common import RetryPolicy

from activities.messages import Messages
from delivery.templates import MessageTemplate
from models.rules.durations import Duration, days, hours, minutes
from models.rules.parameters import from_trigger
from models.rules.triggers import on, parameter, when
from models.temporal.execution import HttpAnswer, Message, Quiet, RecordedEvent, StepInput
from models.temporal.profiles import KnownProfile
from models.vocabulary import Channel, LifecycleStage, MessageStatus, Purpose, WaitCondition
from workflows.base import EVERY_DAY, NEVER, NIGHT, WEEKDAYS, LifecycleWorkflow
from workflows.catalog import Parameters, lifecycle
from workflows.policies import LONG, OUTSIDE, STORE, StepPolicy

__all__ = [
    "EVERY_DAY",
    "LONG",
    "NEVER",
    "NIGHT",
    "OUTSIDE",
    "STORE",
    "WEEKDAYS",
    "Channel",
    "Duration",
    "HttpAnswer",
    "KnownProfile",
    "LifecycleStage",
    "LifecycleWorkflow",
    "Message",
    "MessageStatus",
    "MessageTemplate",
    "Messages",
    "Parameters",
    "Purpose",
    "Quiet",
    "RecordedEvent",
    "RetryPolicy",
    "StepInput",
    "StepPolicy",
    "WaitCondition",
    "days",
    "from_trigger",
    "hours",
    "lifecycle",
    "minutes",
    "on",
    "parameter",
    "when",
]
