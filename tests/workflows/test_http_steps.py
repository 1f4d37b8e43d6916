"""Steps that send a request to a service of the operator, which is a real HTTP server here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.http import LONGEST_ANSWER, HttpRequests
from models.temporal.execution import HttpRequest, StepContext
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import ConfigurationError, Service, Settings, load_settings
from testing.hooks import HookServer
from testing.people import Customer
from testing.runs import Runs
from tests.support.calling import Caller
from worker import build_worker

JSON = "200 OK\r\ncontent-type: application/json; charset=utf-8"


@pytest.fixture
async def service() -> AsyncIterator[HookServer]:
    async with HookServer() as server:
        yield server


@pytest.fixture
def calling(skipping: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings) -> Any:
    @asynccontextmanager
    async def with_settings(**given: Any) -> AsyncIterator[Runs]:
        settings = worker_settings.model_copy(update=given)
        async with build_worker(skipping.client, settings, database, cipher, lifecycles=[Caller]):
            yield Runs(skipping, database, cipher, settings.task_queue, [Caller])

    return with_settings


async def test_a_step_sends_json_with_its_key_and_stores_the_answer(
    calling: Any, service: HookServer, customer: Customer
) -> None:
    service.answers = [f'{JSON}\r\n\r\n{{"refund": "re_1"}}']
    async with calling(billing_url=f"{service.url}/api/", billing_token="secret") as runs:
        run = await runs.start(customer.user_id, "caller")
        assert (await run.handle.result()).reason == "answered_200"
        assert (await runs.context(run)).results["refund"] == {
            "status": 200,
            "body": {"refund": "re_1"},
            "skipped": False,
        }
    [hook] = service.received
    assert (hook.method, hook.path) == ("PUT", "/api/invoices/in%2F1/refund?notify=no")
    assert hook.body == f'{{"user_id":"{customer.user_id}"}}'.encode()
    assert hook.headers["authorization"] == "Bearer secret"
    assert hook.headers["content-type"] == "application/json"
    assert len(hook.headers["idempotency-key"]) == 32


async def test_without_the_setting_the_step_is_skipped_and_says_so(calling: Any, customer: Customer) -> None:
    async with calling() as runs:
        run = await runs.start(customer.user_id, "caller")
        assert (await run.handle.result()).reason == "skipped"
        assert (await runs.context(run)).results["refund"] == {"status": None, "body": None, "skipped": True}


async def test_a_step_is_retried_with_the_same_key_after_the_time_that_the_service_asks_for(
    calling: Any, service: HookServer, customer: Customer
) -> None:
    service.answers = ["503 Service Unavailable\r\nretry-after: 3600", "", "429 Too Many Requests", JSON]
    async with calling(billing_url=service.url) as runs:
        run = await runs.start(customer.user_id, "caller", max_attempts=4)
        assert (await run.handle.result()).reason == "answered_200"
        context = await runs.context(run)
    assert 3600 <= context.variables["seconds"] < 4000
    assert [each.error_type for each in context.attempts] == [
        "HttpStatusError",
        "HttpUnreachable",
        "HttpStatusError",
        None,
    ]
    assert len({hook.headers["idempotency-key"] for hook in service.received}) == 1


async def test_a_client_error_fails_at_once_unless_the_author_accepts_it(
    calling: Any, service: HookServer, customer: Customer
) -> None:
    service.answers = ["404 Not Found", "409 Conflict\r\ncontent-type: text/html\r\n\r\n<p>"]
    async with calling(billing_url=service.url) as runs:
        refused = await runs.start(customer.user_id, "caller", parameters={"invoice_id": "secret-7"})
        with pytest.raises(WorkflowFailureError):
            await refused.handle.result()
        [attempt] = (await runs.context(refused)).attempts
        assert attempt.error_type == "HttpStatusError"
        assert (
            attempt.error_message
            == "PUT /invoices/{invoice_id}/refund of PERENNIAL_BILLING_URL: the answer is 404"
        )
        accepted = await runs.start(customer.user_id, "caller")
        assert (await accepted.handle.result()).reason == "answered_409"
        assert (await runs.context(accepted)).results["refund"]["body"] is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (f"{JSON}\r\n\r\n" + " " * (LONGEST_ANSWER + 1), "more than 262144 bytes"),
        (f"{JSON}\r\ncontent-encoding: gzip\r\n\r\nx", "compressed"),
        (f"{JSON}\r\n\r\nsecret", "no JSON"),
        ("302 Found\r\nlocation: https://elsewhere.example", "answer is 302"),
    ],
    ids=["long", "compressed", "malformed", "redirect"],
)
async def test_an_answer_that_no_retry_mends_fails_the_step_for_good(
    service: HookServer, answer: str, text: str
) -> None:
    service.answers = [answer]
    with pytest.raises(ApplicationError, match=text) as caught:
        await request(service, "/a")
    assert caught.value.non_retryable
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        "502 Bad Gateway\r\ncontent-encoding: gzip\r\n\r\nx",
        "503 Service Unavailable\r\n\r\n" + " " * (LONGEST_ANSWER + 1),
        "429 Too Many Requests\r\ncontent-type: application/json\r\n\r\nsorry",
    ],
    ids=["compressed", "long", "malformed"],
)
async def test_the_body_of_a_temporary_failure_does_not_matter(service: HookServer, answer: str) -> None:
    service.answers = [answer]
    with pytest.raises(ApplicationError) as caught:
        await request(service, "/a")
    assert (caught.value.type, caught.value.non_retryable) == ("HttpStatusError", False)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("/invoices/{id}/refund", {"id": ".."}),
        ("/invoices/{id}/refund", {"id": ""}),
        ("/invoices/{id}/refund", {}),
        ("/invoices/../secrets", {}),
        ("/invoices?all=yes", {}),
        ("@elsewhere.example/", {}),
        ("/a\r\nhost: elsewhere.example", {}),
    ],
)
async def test_no_value_leads_to_another_path(service: HookServer, path: str, values: dict[str, str]) -> None:
    with pytest.raises(ApplicationError) as caught:
        await request(service, path, values)
    assert caught.value.type == "InvalidRequest"
    assert service.received == []


async def request(service: HookServer, path: str, values: dict[str, str] | None = None) -> None:
    context = StepContext(
        workflow_id="caller", instance_id="i-1", user_id="u-1", step="call", position=1, max_attempts=3
    )
    message = HttpRequest(method="GET", base="billing_url", path=path, values=values or {}, context=context)
    requests = HttpRequests({"billing_url": Service(service.url, None)})
    await ActivityEnvironment().run(requests.request, message)


@pytest.mark.parametrize(
    "url", ["http://billing.example.com", "https://me:secret@billing.example.com", "https://b.example/?a=secret"]
)
def test_a_service_s_url_is_https_without_secrets(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PERENNIAL_BILLING_URL", url)
    with pytest.raises(ConfigurationError, match="PERENNIAL_BILLING_URL") as caught:
        load_settings()
    assert "secret" not in str(caught.value)
