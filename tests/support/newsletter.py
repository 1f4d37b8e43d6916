"""A marketing workflow for tests: it waits for a long time and then sends."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.messages import Messages
    from models.rules.durations import Duration
    from models.temporal.execution import Message
    from models.vocabulary import Purpose
    from workflows.base import LifecycleWorkflow
    from workflows.catalog import Parameters, lifecycle


class NewsletterParameters(Parameters):
    """How long it waits."""

    within: Duration = timedelta(days=1)


@lifecycle("newsletter", purpose=Purpose.MARKETING)
class Newsletter(LifecycleWorkflow[NewsletterParameters]):
    """Waits for a visit, and sends a message after it or after the wait."""

    async def journey(self, parameters: NewsletterParameters) -> None:
        await self.wait_for_event("shop.visit", within=parameters.within, name="wait_for_visit")
        await self.step("send", Messages.send, Message(template="welcome"))
