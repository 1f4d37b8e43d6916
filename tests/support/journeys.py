"""Lifecycle workflows for tests; without pytest, since the sandbox imports this module for each run."""

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
    """Waits, and exits when the cart is bought or dropped."""

    async def journey(self, parameters: Patience) -> None:
        """An author's `except Exception` doesn't catch an exit."""
        try:
            await self.wait_for_event("never.comes", within=parameters.patience)
        except Exception:  # noqa: BLE001 - as careless authors write
            self.complete(reason="swallowed")
            return
        await self.send("welcome")
        self.complete(reason="stayed")

    async def at_exit(self, parameters: Patience, event: RecordedEvent) -> None:
        await self.emit("cart.left", {"by": event.event_type})


@lifecycle("promoter", purpose="marketing")
class Promoter(LifecycleWorkflow[Patience]):
    """Sends one message after the other."""

    async def journey(self, parameters: Patience) -> None:
        self.variables["sent"] = 0
        for _ in range(parameters.rounds):
            delivery = await self.send("welcome")
            self.variables["sent"] += delivery.reason is None
            self.variables["last"] = delivery.reason or delivery.status
        await self.send("welcome", by=Channel.WEBHOOK, name="push")
        self.complete(reason="done")


@lifecycle("night_owl", purpose="marketing")
class NightOwl(LifecycleWorkflow[Patience]):
    """Sends one message at any hour, and one at a good hour."""

    async def journey(self, parameters: Patience) -> None:
        await self.send("welcome", at_any_hour=True)
        await self.send("order_thanks")


@lifecycle("emitter", purpose=None)
class Emitter(LifecycleWorkflow[Patience]):
    """Emits an event and waits for it."""

    async def journey(self, parameters: Patience) -> None:
        """The wait begins after the event was recorded, and sees it all the same."""
        emission = await self.emit("emitter.done", {"large": True})
        self.variables["emission"] = emission.status
        event = await self.wait_for_event("emitter.*", within=parameters.patience, where={"large": True})
        self.complete(reason="received" if event and event.event_id == emission.event_id else "nothing")


@lifecycle("rounds", purpose=None)
class Rounds(LifecycleWorkflow[Patience]):
    """Many rounds of waits and messages, with a branch that nothing awaits until the end."""

    async def journey(self, parameters: Patience) -> None:
        log: list[Any] = []
        self.variables["log"] = log
        began = self.now()
        branch = asyncio.create_task(self._branch(parameters))
        for number in range(parameters.rounds):
            await self.sleep(hours(1), name="rest")
            event = await self.wait_for_event("rounds.next", within=parameters.patience, name="next")
            if event is not None:
                log.append(event.event_id)
            log.append([number, self.random.randrange(1_000_000), (self.now() - began).total_seconds() // 60])
            if number % 5 == 0:
                delivery = await self.send("welcome", name="postcard")
                log.append(delivery.message_id)
        await branch
        self.complete(reason="done")

    async def _branch(self, parameters: Patience) -> None:
        for _ in range(parameters.rounds):
            await self.wait_for_event("rounds.other", within=hours(2), name="other")


@lifecycle("twins", purpose=None, exit_on=when("twins.apart", reason="apart"))
class Twins(LifecycleWorkflow[Patience]):
    """Two branches that sleep, send and wait for an event."""

    async def journey(self, parameters: Patience) -> None:
        await asyncio.gather(self._wait("left", parameters), self._wait("right", parameters))
        self.complete(reason="together")

    async def _wait(self, side: str, parameters: Patience) -> None:
        await self.sleep(parameters.patience, name=f"sleep_{side}")
        await self.send("welcome", name=f"send_{side}")
        event = await self.wait_for_event("twins.meet", within=parameters.patience, name=f"wait_{side}")
        self.variables[side] = event.event_id if event else None


@lifecycle("parting", purpose=None, exit_on=when("parting.now", reason="parted"))
class Parting(LifecycleWorkflow[Patience]):
    """A message in one branch, a wait and a bug in the others."""

    async def journey(self, parameters: Patience) -> None:
        await asyncio.gather(self._message(), self._wait(parameters), self._fail())

    async def _message(self) -> None:
        await self.send("welcome")
        await self.send("onboarding_nudge")

    async def _wait(self, parameters: Patience) -> None:
        await self.wait_for_event("never.comes", within=parameters.patience, name="long")

    async def _fail(self) -> None:
        if await self.wait_for_event("parting.fail", within=days(9), name="fail"):
            raise LookupError("failed")

    async def at_exit(self, parameters: Patience, event: RecordedEvent) -> None:
        """A step that must come after the message."""
        await self.emit("parting.done")


class Branching(Parameters):
    """How the branches are run."""

    grouped: bool = False
    """In a task group, or by `asyncio.gather`."""


@lifecycle("branches", purpose=None, max_attempts=100, exit_on=when("branches.stop", reason="stopped"))
class Branches(LifecycleWorkflow[Branching]):
    """Three branches: two send a message, the third waits."""

    async def journey(self, parameters: Branching) -> None:
        branches = (self._send("welcome"), self._send("onboarding_nudge"), self._wait())
        try:
            if not parameters.grouped:
                await asyncio.gather(*branches)
                return
            async with asyncio.TaskGroup() as group:
                for branch in branches:
                    group.create_task(branch)
        finally:
            self.variables["finally"] = True

    async def _send(self, template: str) -> None:
        try:
            await self.send(template)
        except Exception as error:  # noqa: BLE001 - as careless authors write
            self.variables["caught"] = type(error).__name__
        self.variables[template] = "sent"
        await self.send("order_thanks", name=f"send_after_{template}")

    async def _wait(self) -> None:
        try:
            await self.wait_for_event("never.comes", within=days(9))
        finally:
            self.variables["wait"] = "left"

    async def at_exit(self, parameters: Branching, event: RecordedEvent) -> None:
        """A step that must come after the attempts."""
        await self.emit("branches.stopped")


@lifecycle("group", purpose=None)
class Group(LifecycleWorkflow[Patience]):
    """A task group in which one step fails for good while another is under way, and two branches wait."""

    async def journey(self, parameters: Patience) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            group.create_task(self._fail())
            for name in ("one", "two"):
                group.create_task(self.sleep(days(9), name=name))

    async def _send(self) -> None:
        await self.send("welcome")
        await self.send("order_thanks")

    async def _fail(self) -> None:
        await self.wait_for_event("group.fail", within=days(1))
        await self.send("onboarding_nudge")


@lifecycle("eager", purpose=None, max_attempts=10, exit_on="cart.drop")
class Eager(LifecycleWorkflow[Patience]):
    """Begins with a step."""

    async def journey(self, parameters: Patience) -> None:
        await self.send("welcome")
        await self.send("onboarding_nudge")
        await self.wait_for_event("never.comes", within=parameters.patience)


@lifecycle("buggy", purpose=None)
class Buggy(LifecycleWorkflow[Patience]):
    """Has a bug after its first step."""

    async def journey(self, parameters: Patience) -> None:
        await self.send("welcome")
        self.variables["share"] = 1 / len(self.variables)


@lifecycle("self_cancelling", purpose=None)
class SelfCancelling(LifecycleWorkflow[Patience]):
    """Cancels its own task."""

    async def journey(self, parameters: Patience) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await self.send("welcome")


@lifecycle("changing", purpose=None)
class Before(LifecycleWorkflow[Patience]):
    """A workflow as it was when it was deployed."""

    async def journey(self, parameters: Patience) -> None:
        await self.send("welcome")
        await self.wait_for_event("never.comes", within=parameters.patience)
        await self.send("onboarding_nudge")
        self.complete(reason="as it was")


@lifecycle("changing", purpose=None)
class After(LifecycleWorkflow[Patience]):
    """The same workflow, changed without a patch: running instances can't replay it."""

    async def journey(self, parameters: Patience) -> None:
        await self.sleep_until_local(name="wait_for_morning")
        await self.sleep(parameters.patience, name="first_a_sleep")
        await self.send("welcome")
        self.complete(reason="as it became")


@lifecycle("changing", purpose=None)
class Patched(LifecycleWorkflow[Patience]):
    """The same workflow, changed as the guide says."""

    async def journey(self, parameters: Patience) -> None:
        """Another message comes in between, for instances that haven't passed there."""
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
        await self.send("welcome")
        self.deprecate_patch("thanks-in-between")
        await self.send("order_thanks")
        await self.wait_for_event("never.comes", within=parameters.patience)
        await self.send("onboarding_nudge")
        self.complete(reason="deprecated")


JOURNEYS = (
    Leaver,
    Promoter,
    NightOwl,
    Emitter,
    Rounds,
    Twins,
    Parting,
    Branches,
    Group,
    Eager,
    Buggy,
    SelfCancelling,
    Before,
)
