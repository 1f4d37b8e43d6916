"""`GET /users/{id}/engagement`: the score, its terms, and the events that weigh most."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.events import weights
from tests.support.http import Clients, assert_problem
from tests.support.log import Happening, Log, purchase

DAY = timedelta(days=1)
GRANT = {"granted": True, "source": "web_form", "policy_version": "1", "legal_basis": "consent"}


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def profiled(api: Clients, log: Log) -> str:
    """A user with the consent `profiling`."""
    user = await log.person()
    assert (await api.admin.put(f"/users/{user}/consents/profiling", json=GRANT)).status_code == 200
    return user


async def explained(api: Clients, user: str) -> dict[str, Any]:
    answer = await api.analyst.get(f"/users/{user}/engagement")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_the_terms_add_up_to_the_score_and_name_their_inputs(api: Clients, log: Log) -> None:
    user, now = await profiled(api, log), datetime.now(UTC)
    bought = purchase(user, "10", timestamp=now - 3.5 * DAY, event_id="e-bought")
    viewed = Happening(user, timestamp=now - 7 * DAY, event_id="e-viewed")
    clicked = Happening(user, "engagement.share", timestamp=now - 14 * DAY, event_id="e-shared")
    left = Happening(user, "user.logout", timestamp=now - 3.5 * DAY)
    emitted = Happening(user, "offer.made", timestamp=now, session_id="workflow:i-1")
    await log.write(bought, viewed, clicked, left, emitted)
    await log.project()
    found = await explained(api, user)
    # S = 2^(-1/4) + 2^(-1/2) + 2^(-1); A = 8 · 2^(-1/4) + 2^(-1/2) + 4 · 2^(-1)
    assert [each["points"] for each in found["terms"]] == [28.3, 7.9, 9.4]
    assert found["engagement_score"] == 45.6
    recency, frequency, depth = found["terms"]
    assert [each["weight"] for each in found["terms"]] == [0.4, 0.35, 0.25]
    assert recency["value"] == pytest.approx(0.7071, abs=1e-4)
    assert recency["inputs"]["days"] == pytest.approx(3.5, abs=0.01)
    assert recency["inputs"]["last_session_date"] == bought.timestamp.isoformat().replace("+00:00", "Z")
    assert frequency["inputs"] == {"decayed_sessions": pytest.approx(2.048, abs=1e-3)}
    assert depth["inputs"] == {"decayed_actions": pytest.approx(9.4343, abs=1e-3)}
    assert [(each["event_id"], each["weight"]) for each in found["top_events"]] == [
        ("e-bought", 8),
        ("e-shared", 4),
        ("e-viewed", 1),
    ]
    assert found["top_events"][0]["contribution"] == pytest.approx(6.727, abs=1e-3)
    profile = (await api.analyst.get(f"/users/{user}")).json()
    assert profile["behavior"]["engagement_score"] == 45.6


async def test_without_sessions_the_score_and_all_points_are_zero(api: Clients, log: Log) -> None:
    found = await explained(api, await profiled(api, log))
    assert found["engagement_score"] == 0
    assert [(each["value"], each["points"]) for each in found["terms"]] == [(0, 0)] * 3
    assert found["terms"][0]["inputs"] == {"last_session_date": None, "days": None}
    assert found["top_events"] == []


async def test_without_profiling_all_is_null(api: Clients, log: Log) -> None:
    user = await profiled(api, log)
    await log.write(Happening(user, timestamp=datetime.now(UTC)))
    await log.project()
    assert (await explained(api, user))["engagement_score"] > 0
    assert (await api.admin.delete(f"/users/{user}/consents/profiling")).status_code == 200
    found = await explained(api, user)
    assert found == {
        "user_id": user,
        "as_of": found["as_of"],
        "engagement_score": None,
        "terms": None,
        "top_events": None,
    }


async def test_the_ten_events_that_weigh_most_are_found_among_the_latest(
    api: Clients, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, now = await profiled(api, log), datetime.now(UTC)
    views = [Happening(user, timestamp=now - number * DAY, event_id=f"v-{number:02}") for number in range(20)]
    await log.write(*views, purchase(user, "1", timestamp=now - 19.5 * DAY, event_id="e-bought"))
    found = (await explained(api, user))["top_events"]
    assert [each["event_id"] for each in found] == ["e-bought", *(f"v-{number:02}" for number in range(9))]
    monkeypatch.setattr(weights, "LATEST", 20)
    assert "e-bought" not in [each["event_id"] for each in (await explained(api, user))["top_events"]]


async def test_readers_may_ask_and_the_audit_log_has_each_answer(
    api: Clients, log: Log, owner: Connection
) -> None:
    user = await profiled(api, log)
    assert_problem(await api.of(Role.INTEGRATOR).get(f"/users/{user}/engagement"), 403, "forbidden")
    assert_problem(await api.analyst.get("/users/nobody/engagement"), 404, "user_not_found")
    await explained(api, user)
    rows = await owner.fetch(
        "SELECT outcome FROM audit_log WHERE action = 'engagement.read' AND user_id = $1", user
    )
    assert "done" in [row["outcome"] for row in rows]
    await owner.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", user)
    assert_problem(await api.analyst.get(f"/users/{user}/engagement"), 410, "user_erased")
