"""Decisions expire by their hour; a run deletes them, and a dry run counts them."""

from __future__ import annotations

from models.rules.retention import DECISIONS
from runtime.database import Database
from store.connection import Connection
from store.retention import expired, runs
from tests.retention.filling import RUN, audited, begin_purge
from tests.support.http import Clients

KEPT = """INSERT INTO decisions (user_id, hour, workflow_id, reason, event_id, first_event_id, times)
          SELECT 'u-' || days, now() - make_interval(days => days), 'onboarding', 'disabled', 'e', 'e', 1
            FROM unnest(ARRAY[1, 89, 91, 92, 400]) days"""


async def test_decisions_are_kept_for_their_period(api: Clients, database: Database, owner: Connection) -> None:
    await owner.execute(KEPT)
    answer = await api.admin.post("/retention/run", json={"dry_run": True, "data_types": [DECISIONS]})
    [found] = answer.json()["data"]
    assert found["parts"] == [{"part": "decisions", "action": "delete", "rows": 3}]
    async with database.transaction() as connection:
        await runs.begin(connection, RUN, "a-test", [DECISIONS])
    await (await begin_purge(database, DECISIONS)).delete_by_index(expired.DECISIONS)
    left = await owner.fetch("SELECT user_id FROM decisions ORDER BY hour")
    assert [each["user_id"] for each in left] == ["u-89", "u-1"]
    assert await audited(owner, DECISIONS) == {("decisions", "deleted"): 3}
