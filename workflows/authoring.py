"""All that a lifecycle workflow's file imports, in one place.

The modules behind it pass through the sandbox, so that a workflow's file needs no
``workflow.unsafe.imports_passed_through()``; the file itself stays under the sandbox's restrictions.
"""

from activities.messages import Messages
from activities.templates import MessageTemplate
from models.messages.execution import Message, Quiet, RecordedEvent, StepMessage
from models.rules.durations import Duration, days, hours, minutes
from models.rules.triggers import on, when
from models.vocabulary import Channel, LifecycleStage, MessageStatus, Purpose
from workflows.base import EVERY_DAY, NEVER, NIGHT, WEEKDAYS, LifecycleWorkflow
from workflows.catalog import Parameters, lifecycle
from workflows.policies import LONG, OUTSIDE, STORE

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
    "StepMessage",
    "days",
    "hours",
    "lifecycle",
    "minutes",
    "on",
    "when",
]
