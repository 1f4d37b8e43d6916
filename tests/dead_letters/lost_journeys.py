"""A journey for tests of lost histories; without pytest, since the sandbox imports this module for each run."""

from __future__ import annotations

from workflows.authoring import Duration, LifecycleWorkflow, Parameters, days, lifecycle, when


class Way(Parameters):
    """How long to wait."""

    rest: Duration = days(1)
    """How long the sleep lasts."""
    patience: Duration = days(9)
    """How long each wait lasts."""


@lifecycle("long_way", purpose=None, exit_on=when("way.left", reason="left"))
class LongWay(LifecycleWorkflow[Way]):
    """Messages with waits of every kind between them."""

    async def journey(self, parameters: Way) -> None:
        self.variables["began"] = self.started_at.isoformat()
        await self.send("welcome")
        await self.sleep(parameters.rest, name="rest")
        self.variables["inactive"] = await self.wait_for_inactivity(
            "shop.*", lasting=parameters.rest, within=parameters.patience, name="quiet"
        )
        first = await self.wait_for_event("way.sign", within=parameters.patience, name="first")
        self.variables["first"] = first.event_id if first else None
        await self.send("onboarding_nudge")
        second = await self.wait_for_event("way.sign", within=parameters.patience, name="second")
        self.variables["second"] = second.event_id if second else None
        await self.send("order_thanks")
        self.complete(reason="arrived")
