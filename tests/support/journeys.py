"""Lifecycle workflows of the tests' own; without pytest, since the sandbox imports this module for each run."""

from __future__ import annotations

import asyncio
from typing import Any

from workflows.authoring import (
    Channel,
    Duration,
    LifecycleWorkflow,
    Parameters,
    RecordedEvent,
    days,
    hours,
    lifecycle,
    on,
    when,
)


class Patience(Parameters):
    """How long to wait."""

    patience: Duration = days(1)
    """How long each wait lasts."""
    rounds: int = 1
    """How many there are."""


@lifecycle(
    "leaver",
    purpose=None,
    trigger=on("cart.fill"),
    once_per=days(7),
    exit_on=(when("cart.buy", reason="bought", currency="EUR"), "cart.drop"),
)
class Leaver(LifecycleWorkflow[Patience]):
    """Waits, and leaves when the cart is bought or dropped."""

    async def journey(self, parameters: Patience) -> None:
        """Wait for what never comes; an author's `except Exception` doesn't hold an exit up."""
        try:
            await self.wait_for_event("never.comes", within=parameters.patience)
        except Exception:  # noqa: BLE001 - as careless authors write
            self.complete(reason="swallowed")
            return
        await self.send("welcome")
        self.complete(reason="stayed")

    async def at_exit(self, parameters: Patience, event: RecordedEvent) -> None:
        """A step after the exit."""
        await self.emit("cart.left", {"by": event.event_type})


@lifecycle("promoter", purpose="marketing")
class Promoter(LifecycleWorkflow[Patience]):
    """Sends one message after the other."""

    async def journey(self, parameters: Patience) -> None:
        """Count what went."""
        self.variables["sent"] = 0
        for _ in range(parameters.rounds):
            delivery = await self.send("welcome")
            self.variables["sent"] += delivery.reason is None
            self.variables["last"] = delivery.reason or delivery.status
        await self.send("welcome", by=Channel.WEBHOOK, name="push")
        self.complete(reason="done")


@lifecycle("teller", purpose=None)
class Teller(LifecycleWorkflow[Patience]):
    """Emits an event and waits for it."""

    async def journey(self, parameters: Patience) -> None:
        """The wait begins after the event was recorded, and sees it all the same."""
        emission = await self.emit("teller.spoke", {"loudly": True})
        self.variables["emission"] = emission.status
        heard = await self.wait_for_event("teller.*", within=parameters.patience, where={"loudly": True})
        self.complete(reason="heard" if heard and heard.event_id == emission.event_id else "nothing")


@lifecycle("wanderer", purpose=None, exit_on=when("wander.home", reason="home"))
class Wanderer(LifecycleWorkflow[Patience]):
    """A journey of many stages, with a branch beside it, whose history becomes long."""

    async def journey(self, parameters: Patience) -> None:
        """Chance, time, events, failures and results must come to the same in every run."""
        log: list[Any] = []
        self.variables["log"] = log
        began = self.now()
        beside = asyncio.create_task(self._beside(parameters))
        for stage in range(parameters.rounds):
            await self.sleep(hours(1), name="rest")
            event = await self.wait_for_event("wander.meet", within=parameters.patience, name="meet")
            if event is not None:
                log.append(event.event_id)
            log.append([stage, self.random.randrange(1_000_000), (self.now() - began).total_seconds() // 60])
            if stage >= 9:
                log.append(self.patched("late-change"))
            if stage % 5 == 0:
                delivery = await self.send("welcome", name="postcard")
                log.append(delivery.message_id)
        await beside
        self.complete(reason="arrived")

    async def _beside(self, parameters: Patience) -> None:
        for _ in range(parameters.rounds):
            await self.wait_for_event("wander.beside", within=hours(2), name="beside")


@lifecycle("punctual", purpose=None)
class Punctual(LifecycleWorkflow[Patience]):
    """Notes when it went on, beside a branch that is over early."""

    async def journey(self, parameters: Patience) -> None:
        """What it notes must be the same in every run."""
        await self.sleep(hours(1), name="nap")
        self.variables["went_on_at"] = self.now().isoformat()
        await asyncio.gather(self._walk(parameters), self._greet())
        self.complete(reason="arrived")

    async def _walk(self, parameters: Patience) -> None:
        laps: list[str] = []
        self.variables["laps"] = laps
        for _ in range(parameters.rounds):
            await self.sleep(hours(1), name="lap")
            laps.append(self.now().isoformat())

    async def _greet(self) -> None:
        await self.sleep(hours(0.5), name="before_greeting")
        self.variables["greeted_at"] = self.now().isoformat()


@lifecycle("twins", purpose=None, exit_on=when("twins.apart", reason="apart"))
class Twins(LifecycleWorkflow[Patience]):
    """Two branches side by side, one of which sends when its wait is over."""

    async def journey(self, parameters: Patience) -> None:
        """An exit ends both."""
        await asyncio.gather(self._wait("left", parameters), self._wait("right", parameters))
        self.complete(reason="together")

    async def _wait(self, side: str, parameters: Patience) -> None:
        await self.sleep(parameters.patience, name=f"sleep_{side}")
        await self.send("welcome", name=f"send_{side}")
        heard = await self.wait_for_event("twins.speak", within=parameters.patience, name=f"hear_{side}")
        self.variables[side] = heard.event_id if heard else None


@lifecycle("parting", purpose=None, exit_on=when("parting.now", reason="parted"))
class Parting(LifecycleWorkflow[Patience]):
    """A message in one branch, a wait and a bug in the others."""

    async def journey(self, parameters: Patience) -> None:
        """Whatever ends one ends all."""
        await asyncio.gather(self._message(parameters), self._linger(parameters), self._stumble())

    async def _message(self, parameters: Patience) -> None:
        await self.send("welcome")
        await self.send("onboarding_nudge")

    async def _linger(self, parameters: Patience) -> None:
        await self.wait_for_event("never.comes", within=parameters.patience, name="long")

    async def _stumble(self) -> None:
        if await self.wait_for_event("parting.stumble", within=days(9), name="stumble"):
            raise LookupError("stumbled")

    async def at_exit(self, parameters: Patience, event: RecordedEvent) -> None:
        """A step that must come after the message."""
        await self.emit("parting.done")


@lifecycle("eager", purpose=None, max_attempts=10, exit_on="cart.drop")
class Eager(LifecycleWorkflow[Patience]):
    """Begins with a step."""

    async def journey(self, parameters: Patience) -> None:
        """Send, send, wait."""
        await self.send("welcome")
        await self.send("onboarding_nudge")
        await self.wait_for_event("never.comes", within=parameters.patience)


@lifecycle("buggy", purpose=None)
class Buggy(LifecycleWorkflow[Patience]):
    """Has a bug after its first step."""

    async def journey(self, parameters: Patience) -> None:
        """Divide by nothing."""
        await self.send("welcome")
        self.variables["share"] = 1 / len(self.variables)


@lifecycle("changing", purpose=None)
class Before(LifecycleWorkflow[Patience]):
    """A workflow as it was when it was deployed."""

    async def journey(self, parameters: Patience) -> None:
        """Welcome, wait, nudge."""
        await self.send("welcome")
        await self.wait_for_event("never.comes", within=parameters.patience)
        await self.send("onboarding_nudge")
        self.complete(reason="as it was")


@lifecycle("changing", purpose=None)
class After(LifecycleWorkflow[Patience]):
    """The same workflow, changed without a patch: running instances can't follow it."""

    async def journey(self, parameters: Patience) -> None:
        """Another step comes first."""
        await self.sleep_until_local(name="wait_for_morning")
        await self.sleep(parameters.patience, name="first_a_sleep")
        await self.send("welcome")
        self.complete(reason="as it became")


@lifecycle("changing", purpose=None)
class Patched(LifecycleWorkflow[Patience]):
    """The same workflow, changed as the guide says."""

    async def journey(self, parameters: Patience) -> None:
        """Another message comes in between, for whoever hasn't passed there yet."""
        await self.send("welcome")
        if self.patched("thanks-in-between"):
            await self.send("order_thanks")
        await self.wait_for_event("never.comes", within=parameters.patience)
        await self.send("onboarding_nudge")
        self.complete(reason="patched" if self.patched("thanks-in-between") else "as it was")


@lifecycle("changing", purpose=None)
class PatchDeprecated(LifecycleWorkflow[Patience]):
    """The same, when no instance from before is left."""

    async def journey(self, parameters: Patience) -> None:
        """The old course is gone."""
        await self.send("welcome")
        self.deprecate_patch("thanks-in-between")
        await self.send("order_thanks")
        await self.wait_for_event("never.comes", within=parameters.patience)
        await self.send("onboarding_nudge")
        self.complete(reason="deprecated")


JOURNEYS = (Leaver, Promoter, Teller, Wanderer, Punctual, Twins, Parting, Eager, Buggy, Before)
