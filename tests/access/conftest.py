"""An application with a real Temporal, and one user whose every attribute is a canary."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from fastapi import FastAPI
from temporalio.testing import WorkflowEnvironment

from api.resources import Resources, limiter_database
from models.instances import NewInstance
from models.temporal.execution import Progress, StepContext, StepFailure, WaitResult
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.instances import attempts, terminal, transitions
from store.users import data_keys
from tests.support.builders import user
from tests.support.disk import Canaries
from tests.support.events import event, moment
from tests.support.http import Clients, application, clients_of


@pytest.fixture(scope="session")
async def app(
    database_url: str, key_file: Path, skipping: WorkflowEnvironment, pool: Database, cipher: Cipher
) -> AsyncIterator[FastAPI]:
    """One application for all rows of the table. No worker polls its task queue."""
    settings = Settings(
        environment="embedded",
        database_url=database_url,
        key_file=key_file,
        task_queue="no-worker",
        temporal_ui_url="http://127.0.0.1:8233",
    )
    limiter = limiter_database(database_url)
    await limiter.open()
    yield application(Resources(settings, pool, limiter, cipher, skipping.client))
    await limiter.close()


@pytest.fixture
async def api(app: FastAPI, database: Database) -> AsyncIterator[Clients]:
    async with clients_of(app, database) as clients:
        yield clients


@pytest.fixture
def canaries() -> Canaries:
    return Canaries("kanarie7f3c")


@pytest.fixture
async def peopled(
    api: Clients,
    database: Database,
    owner: asyncpg.Connection[asyncpg.Record],
    cipher: Cipher,
    canaries: Canaries,
) -> Clients:
    """Clients of an application with data of every kind about `u-1`."""
    await _profile(api, canaries)
    await _events(api, database, canaries)
    await _instance(database, cipher, canaries)
    async with database.connection() as connection:
        await connection.execute(
            """INSERT INTO api_keys (key_id, name, roles, hash) VALUES ('key_1', 'some', '{analyst}', 'x')"""
        )
        await connection.execute("INSERT INTO event_types VALUES ('lesson.start', '', '{}', '{}', '{}', now())")
        await connection.execute(
            "INSERT INTO retention_runs (run_id, requested_by, data_types) VALUES ('run-1', 'key_1', '{events}')"
        )
    await owner.execute(
        """INSERT INTO audit_log (audit_id, actor, role, action, outcome) OVERRIDING SYSTEM VALUE
           VALUES (999999999, 'key_1', 'analyst', 'users.list', 'done')"""
    )
    return api


async def _profile(api: Clients, canaries: Canaries) -> None:
    called = canaries.called
    demographics = {
        "gender": called("gender"),
        "city": called("city"),
        "device_type": called("device"),
        "language": "de-x-canary",
        "timezone": "Antarctica/Troll",
        "date_of_birth": "1971-03-07",
        "age": 107,
    }
    document = user(
        email=f"{called('local')}@{called('host')}.com",
        name=called("name"),
        demographics=demographics,
        consents={"data_collection": True},
    )
    answer = await api.admin.post("/users", json=document)
    assert answer.status_code == 201, answer.text


async def _events(api: Clients, database: Database, canaries: Canaries) -> None:
    called = canaries.called
    properties = {"query": called("query"), "undeclared": [called("deep")], f"{called('key')} x": 1}
    sent = event(
        "e-1",
        event_type="engagement.search",
        timestamp=moment(minutes=5),
        event_properties=properties,
        device_info={"os": called("os"), "device_type": called("kind"), "nested": {"id": called("id")}},
        location={"country": called("country"), "region": called("region"), "timezone": called("zone")},
        referrer=f"https://{called('host')}.example/{called('path')}",
    )
    assert (await api.integrator.post("/events", json=sent)).status_code == 202
    async with database.connection() as connection:
        await connection.execute(
            """INSERT INTO poison_events (poison_id, consumer, event_id, user_id, timestamp, tries, error_type,
                                          status)
               SELECT 'p-1', 'projector', event_id, user_id, timestamp, 3, 'Unfoldable', 'open' FROM events"""
        )


async def _instance(database: Database, cipher: Cipher, canaries: Canaries) -> None:
    """An instance that has failed at its second step, as a worker leaves it."""
    called = canaries.called
    context = StepContext(
        workflow_id="onboarding", instance_id="i-1", user_id="u-1", step="first", position=1, max_attempts=1
    )
    failure = StepFailure(
        error_type="Refused", error_message=called("message"), failed_step="second", stack_trace=called("stack")
    )
    progress = Progress(
        workflow_id="onboarding",
        instance_id="i-1",
        user_id="u-1",
        status=InstanceStatus.FAILED,
        current_step="second",
        variables={"note": called("variable"), called("odd name") + " x": {"list": [called("inner")]}},
        waits={"wait": WaitResult(position=2, event_type="engagement.search", event_id="e-1", timed_out=False)},
        error=failure,
    )
    new = NewInstance("i-1", "onboarding", "u-1", 1, {"gift": called("parameter")}, "test")
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, "u-1")
        await transitions.insert(connection, key, new)
        begun, key = await attempts.begin_attempt(connection, cipher, context, "run")
        await attempts.complete_attempt(connection, context, begun.number, key, {"text": called("result")})
        second = context.model_copy(update={"step": "second", "position": 3})
        begun, key = await attempts.begin_attempt(connection, cipher, second, "run")
        await attempts.fail_attempt(
            connection, second, begun.number, key, error_type="Refused", error_message=called("attempt")
        )
        await terminal.finish(connection, key, progress, "run")
        await connection.execute("UPDATE instances SET bulk_id = 'b-1'")
        await connection.execute("UPDATE dead_letters SET dead_letter_id = 'd-1', status = 'replayed'")
