"""Temporal's state is lost, or restored to an older one, under a whole stack: docs/runbook.md is right."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.embedded.running import RunningStack, allowed
from tests.support.builders import user
from tests.support.events import event

pytestmark = pytest.mark.slow

WITHIN = 60.0
"""The longest time until lists, instances and dead letters agree."""
WAIT = "wait_for_first_activity"
PROBLEM = "history_lost"


class Operator:
    """An admin's requests to a stack."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def started(self, *user_ids: str) -> dict[str, str]:
        """Start `onboarding` for new users; return the addresses of the instances, once they wait."""
        found = {}
        for user_id in user_ids:
            self.client.post("/users", json=user(user_id, consents={"data_collection": True})).raise_for_status()
            answer = self.client.post("/workflows/onboarding/execute", json={"user_id": user_id})
            assert answer.status_code == 202, answer.text
            found[user_id] = answer.headers["location"]
        for address in found.values():
            assert self.at(address, current_step=WAIT)["waiting_until"] is not None
        return found

    def at(self, address: str, within: float = WITHIN, **wanted: Any) -> dict[str, Any]:
        """The instance, once it has these values."""
        found: dict[str, Any] = self.until(
            lambda: self.client.get(address).json(),
            lambda found: all(found.get(name) == value for name, value in wanted.items()),
            within,
        )
        return found

    def until(self, read: Callable[[], Any], holds: Callable[[Any], bool], within: float = WITHIN) -> Any:
        deadline = time.monotonic() + allowed(within)
        while not holds(found := read()):
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return found

    def act(self, user_id: str) -> None:
        """Record an activity of the user, for which the instance waits."""
        activity = event(None, user_id, event_type="engagement.share", timestamp=now())
        assert self.client.post("/events", json=activity).status_code == 202

    def statuses(self) -> dict[str, tuple[str, str | None]]:
        """The status and the problem of each listed instance, by user."""
        listed = self.client.get("/workflows/onboarding/instances").json()["data"]
        return {each["user_id"]: (each["status"], (each["problem"] or {}).get("kind")) for each in listed}

    def letters(self) -> list[dict[str, Any]]:
        query = {"status": "open", "error_type": PROBLEM}
        data: list[dict[str, Any]] = self.client.get("/dead-letters", params=query).json()["data"]
        return data


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextmanager
def operating(stack: RunningStack) -> Iterator[Operator]:
    key = Path(stack.endpoints["admin_key_file"]).read_text().strip()
    headers = {"Authorization": f"Bearer {key}"}
    address = stack.endpoints["api"]
    with httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=30) as client:
        asked = {"name": "test", "role": "admin", "rate_limit": 100_000}
        client.headers["authorization"] = f"Bearer {client.post('/keys', json=asked).json()['key']}"
        yield Operator(client)


def assert_replayed(operator: Operator, addresses: dict[str, str]) -> None:
    """Each instance runs again at its wait, with its deadline, and no step has run twice."""
    for address in addresses.values():
        again = operator.at(address, status="running", current_step=WAIT, problem=None)
        assert again["waiting_until"] is not None
        assert [(each["step"], each["attempt"]) for each in again["retries"]] == [("send_welcome", 1)]
    operator.until(operator.letters, lambda found: found == [])


def test_after_the_loss_of_temporals_database_all_instances_fail_and_are_replayed_at_once(directory: Path) -> None:
    with RunningStack(directory / "home") as stack, operating(stack) as operator:
        addresses = operator.started("u-1", "u-2", "u-3")
        deadlines = {each: operator.client.get(each).json()["waiting_until"] for each in addresses.values()}
        old = stack.endpoints["pids"]["temporal"]
        for file in (directory / "home" / "temporal").iterdir():
            file.unlink()
        os.kill(old, signal.SIGKILL)
        stack.wait_until_back("temporal", old)

        lost = dict.fromkeys(addresses, ("failed", PROBLEM))
        operator.until(operator.statuses, lambda found: found == lost)
        for address in addresses.values():
            instance = operator.client.get(address).json()
            assert (instance["status"], instance["error"]["error_type"]) == ("failed", PROBLEM)
            assert (instance["problem"]["kind"], instance["reason"]) == (PROBLEM, PROBLEM)
        assert {each["user_id"] for each in operator.letters()} == set(addresses)
        listed = operator.client.get("/workflows/onboarding/instances", params={"problem": PROBLEM}).json()["data"]
        assert len(listed) == 3

        answer = operator.client.post("/dead-letters/replay", json={"error_type": PROBLEM}).json()
        assert (answer["accepted"], answer["refused"]) == (3, [])
        assert_replayed(operator, addresses)
        for address, deadline in deadlines.items():
            assert operator.client.get(address).json()["waiting_until"] == deadline
        operator.act("u-1")
        operator.at(addresses["u-1"], status="completed", reason="activated")


def test_a_restored_older_state_of_temporal_goes_on_and_what_it_lacks_is_replayed(directory: Path) -> None:
    home, backup = directory / "home", directory / "backup"
    with RunningStack(home) as stack, operating(stack) as operator:
        before = operator.started("u-1", "u-2")
    shutil.copytree(home / "temporal", backup)  # of a stopped Temporal
    with RunningStack(home) as stack, operating(stack) as operator:
        operator.act("u-2")
        operator.at(before["u-2"], status="completed", reason="activated")
        after = operator.started("u-3")
    shutil.rmtree(home / "temporal")
    shutil.copytree(backup, home / "temporal")

    with RunningStack(home) as stack, operating(stack) as operator:
        wanted = {"u-1": ("running", None), "u-2": ("completed", None), "u-3": ("failed", PROBLEM)}
        operator.until(operator.statuses, lambda found: found == wanted)
        operator.client.post("/dead-letters/replay", json={"error_type": PROBLEM})
        assert_replayed(operator, after)
        # The run of u-2 is open again in Temporal. It ends at its next step, and changes nothing.
        operator.act("u-2")
        for user_id, address in {**before, **after}.items():
            if user_id != "u-2":
                operator.act(user_id)
                operator.at(address, status="completed", reason="activated")
        ended = operator.client.get(before["u-2"]).json()
        assert (ended["status"], [each["step"] for each in ended["retries"]]) == (
            "completed",
            ["send_welcome", "set_stage"],
        )
