"""A lifecycle workflow for tests whose parameters, exit and variables come from events; without pytest."""

from __future__ import annotations

from workflows.authoring import (
    Duration,
    LifecycleWorkflow,
    Parameters,
    days,
    from_trigger,
    lifecycle,
    on,
    parameter,
    when,
)


class BilledParameters(Parameters):
    """The invoice, and how long to wait."""

    invoice: str | None = from_trigger("invoice_id")
    """The unpaid invoice."""
    patience: Duration = days(1)
    """How long to wait."""


@lifecycle(
    "billed",
    purpose=None,
    trigger=on("billing.failed"),
    exit_on=when("billing.paid", reason="paid", invoice_id=parameter("invoice")),
)
class Billed(LifecycleWorkflow[BilledParameters]):
    """Waits for a call about an unpaid invoice, and shows the properties of its events."""

    async def journey(self, parameters: BilledParameters) -> None:
        if self.trigger is not None:
            self.variables["trigger"] = [self.trigger.event_type, dict(await self.properties_of(self.trigger))]
        call = await self.wait_for_event("billing.call", within=parameters.patience, name="wait_for_call")
        if call is not None:
            self.variables["call"] = dict(await self.properties_of(call))
        self.complete(reason="called" if call else "unpaid")
