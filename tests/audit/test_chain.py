"""Verification finds changes by a superuser of the database, and names the hour."""

from __future__ import annotations

from typing import Any

import pytest

from models.temporal.system import AuditHead
from privacy.audit_chain import ChainBrokenError
from tests.audit.log import Log, hours_ago

BEFORE_MIDDLE, MIDDLE, AFTER_MIDDLE = hours_ago(5), hours_ago(4), hours_ago(3)


def named(hour: Any) -> str:
    return f"{hour:%Y-%m-%d %H:00} UTC"


@pytest.fixture
async def checkpointed(log: Log) -> Log:
    """Six hours with checkpoints, one of them empty."""
    await log.fill(7, 5, 4, 3, 2)
    done = await log.checkpoint()
    assert done.hours >= 6
    await log.verify()
    return log


async def test_an_unchanged_log_matches_its_checkpoints(checkpointed: Log) -> None:
    found = await checkpointed.verify()
    assert (found.rows, found.expired_hours) == (15, 0)
    assert found.hours >= 6
    assert found.newest is not None


async def test_checkpointing_again_changes_nothing_and_an_hour_that_is_not_over_is_not_checkpointed(
    checkpointed: Log,
) -> None:
    before = await checkpointed.verify()
    await checkpointed.add(hours_ago(0))
    assert (await checkpointed.checkpoint()).hours <= 1  # the hour may have turned meanwhile
    assert (await checkpointed.verify()).rows >= before.rows


CHANGES = {
    "actor": "UPDATE audit_log SET actor = 'key-2' WHERE audit_id = $1",
    "role": "UPDATE audit_log SET role = 'analyst' WHERE audit_id = $1",
    "action": "UPDATE audit_log SET action = 'users.list' WHERE audit_id = $1",
    "user": "UPDATE audit_log SET user_id = 'u-2' WHERE audit_id = $1",
    "no user": "UPDATE audit_log SET user_id = NULL WHERE audit_id = $1",
    "subjects": "UPDATE audit_log SET subjects = '{u-7}' WHERE audit_id = $1",
    "order of subjects": "UPDATE audit_log SET subjects = '{u-8,u-7}' WHERE audit_id = $1",
    "fields": "UPDATE audit_log SET fields = '{name}' WHERE audit_id = $1",
    "request": "UPDATE audit_log SET request_id = 'r' WHERE audit_id = $1",
    "outcome": "UPDATE audit_log SET outcome = 'denied' WHERE audit_id = $1",
    "details": """UPDATE audit_log SET details = '{"n": 1.0}' WHERE audit_id = $1""",
    "time": "UPDATE audit_log SET occurred_at = occurred_at + interval '1 microsecond' WHERE audit_id = $1",
    "transaction": "UPDATE audit_log SET xid = '3' WHERE audit_id = $1",
    "missing": "DELETE FROM audit_log WHERE audit_id = $1",
    "another hour": "UPDATE audit_log SET occurred_at = now() WHERE audit_id = $1",
    "added": """INSERT INTO audit_log (occurred_at, actor, role, action, outcome)
                SELECT occurred_at, actor, role, action, outcome FROM audit_log WHERE audit_id = $1""",
    "re-ordered": """UPDATE audit_log a SET occurred_at = b.occurred_at FROM audit_log b
                      WHERE a.audit_id + b.audit_id = 2 * $1 + 1 AND a.audit_id IN ($1, $1 + 1)""",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_row_is_found(checkpointed: Log, change: str) -> None:
    first = next(row["audit_id"] for row in await checkpointed.rows() if row["occurred_at"] >= MIDDLE)
    done = await checkpointed.superuser.execute(CHANGES[change], first)
    assert done in {"UPDATE 1", "UPDATE 2", "DELETE 1", "INSERT 0 1"}
    with pytest.raises(ChainBrokenError, match=named(MIDDLE)):
        await checkpointed.verify()


async def test_a_deleted_hour_is_found(checkpointed: Log) -> None:
    await checkpointed.superuser.execute(
        "DELETE FROM audit_log WHERE occurred_at >= $1 AND occurred_at < $2", MIDDLE, AFTER_MIDDLE
    )
    with pytest.raises(ChainBrokenError, match=named(MIDDLE)):
        await checkpointed.verify()


async def test_a_row_in_an_hour_that_was_checkpointed_as_empty_is_found(checkpointed: Log) -> None:
    await checkpointed.add(hours_ago(6, 30))
    with pytest.raises(ChainBrokenError, match=named(hours_ago(6))):
        await checkpointed.verify()


async def test_a_row_from_before_the_first_checkpoint_is_found(checkpointed: Log) -> None:
    await checkpointed.add(hours_ago(20, 30))
    with pytest.raises(ChainBrokenError, match=named(hours_ago(20))):
        await checkpointed.verify()


async def test_a_deleted_checkpoint_is_found_with_and_without_its_rows(checkpointed: Log) -> None:
    await checkpointed.superuser.execute("DELETE FROM audit_checkpoints WHERE hour = $1", MIDDLE)
    with pytest.raises(ChainBrokenError, match=named(MIDDLE)):
        await checkpointed.verify()
    await checkpointed.superuser.execute(
        "DELETE FROM audit_log WHERE occurred_at >= $1 AND occurred_at < $2", MIDDLE, AFTER_MIDDLE
    )
    with pytest.raises(ChainBrokenError, match=named(MIDDLE)):
        await checkpointed.verify()


async def test_a_deleted_beginning_is_found(checkpointed: Log) -> None:
    await checkpointed.superuser.execute("DELETE FROM audit_checkpoints WHERE hour < $1", MIDDLE)
    await checkpointed.superuser.execute("DELETE FROM audit_log WHERE occurred_at < $1", MIDDLE)
    with pytest.raises(ChainBrokenError, match=named(MIDDLE)):
        await checkpointed.verify()


async def test_a_deleted_end_is_found_until_it_has_new_checkpoints_and_always_by_an_exported_head(
    checkpointed: Log,
) -> None:
    newest = (await checkpointed.verify()).newest
    assert newest is not None
    known = AuditHead(hour=newest.hour, head=newest.head.hex())
    await checkpointed.superuser.execute("DELETE FROM audit_checkpoints WHERE hour >= $1", MIDDLE)
    await checkpointed.superuser.execute("DELETE FROM audit_log WHERE occurred_at >= $1", MIDDLE)
    with pytest.raises(ChainBrokenError, match=named(MIDDLE)):
        await checkpointed.verify()
    await checkpointed.checkpoint(known)
    await checkpointed.verify()
    with pytest.raises(ChainBrokenError, match=newest.head.hex()):
        await checkpointed.verify(newest.head)
    [lost] = [row for row in await checkpointed.rows() if row["action"] == "audit.chain_lost"]
    assert lost["details"] == {"hour": newest.hour.isoformat(), "head": newest.head.hex()}


async def test_the_deletion_of_everything_is_found_by_an_exported_head(checkpointed: Log) -> None:
    newest = (await checkpointed.verify()).newest
    assert newest is not None
    await checkpointed.superuser.execute("DELETE FROM audit_checkpoints; DELETE FROM audit_log")
    with pytest.raises(ChainBrokenError, match=newest.head.hex()):
        await checkpointed.verify(newest.head)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_checkpoints SET rows = 2 WHERE hour = $1",
        "UPDATE audit_checkpoints SET digest = sha256('') WHERE hour = $1",
        "UPDATE audit_checkpoints SET expires_before = now() WHERE hour = $1",
        "UPDATE audit_checkpoints SET created_at = created_at + interval '1 microsecond' WHERE hour = $1",
        "UPDATE audit_checkpoints SET previous = sha256('') WHERE hour = $1",
        "UPDATE audit_checkpoints SET head = sha256('') WHERE hour = $1",
        "UPDATE audit_checkpoints SET key_check = 'another' WHERE hour = $1",
    ],
)
async def test_a_changed_checkpoint_is_found(checkpointed: Log, change: str) -> None:
    assert await checkpointed.superuser.execute(change, MIDDLE) == "UPDATE 1"
    with pytest.raises(ChainBrokenError, match=named(MIDDLE)):
        await checkpointed.verify()


async def test_exchanged_checkpoints_of_two_hours_are_found(checkpointed: Log) -> None:
    await checkpointed.superuser.execute(
        """UPDATE audit_checkpoints a SET rows = b.rows, digest = b.digest, previous = b.previous, head = b.head,
                                    expires_before = b.expires_before, created_at = b.created_at
             FROM audit_checkpoints b WHERE a.hour IN ($1, $2) AND b.hour IN ($1, $2) AND a.hour <> b.hour""",
        MIDDLE,
        AFTER_MIDDLE,
    )
    with pytest.raises(ChainBrokenError, match=named(MIDDLE)):
        await checkpointed.verify()
