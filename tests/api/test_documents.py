"""`/openapi.json` and `/docs`: complete, and self-contained."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.guard import GuardedRoute
from models.schemas.users import UserProfile
from tests.support.builders import collected
from tests.support.http import Clients

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


@pytest.fixture
def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def test_the_document_is_served_to_everybody(api: Clients, document: dict[str, Any]) -> None:
    answer = await api.anonymous.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document
    assert document["openapi"].startswith("3.1")


def test_every_route_is_in_it(app: FastAPI, operations: list[Operation]) -> None:
    described = {(path, method) for path, method, _ in operations}
    hidden = {"/openapi.json", "/docs", "/codec/{token}/decode"}
    for context in iter_route_contexts(app.routes):
        if context.path not in hidden and context.methods != {"OPTIONS"}:
            assert {(context.path, method.lower()) for method in context.methods or ()} <= described


def test_every_operation_says_who_may_call_it(app: FastAPI, operations: list[Operation]) -> None:
    routes = {
        (context.path, method.lower()): context.original_route
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    }
    for path, method, operation in operations:
        route = routes[path, method]
        assert isinstance(route, GuardedRoute)
        assert operation["x-roles"] == sorted(route.access.roles)
        if route.access.public:
            assert operation["security"] == []
            assert "Needs no key." in operation["description"]
        else:
            assert operation["security"] == [{"bearer": []}, {"header": []}]
            assert "admin" in operation["x-roles"]
            assert f"Roles: {', '.join(operation['x-roles'])}." in operation["description"]
            assert {"401", "403", "429", "503"} <= set(operation["responses"])


def test_every_operation_is_described_and_every_answer_has_its_headers(operations: list[Operation]) -> None:
    for path, method, operation in operations:
        assert len(operation["description"]) > 20, (path, method)
        assert operation["tags"]
        for status, response in operation["responses"].items():
            assert {"X-Request-Id", "RateLimit", "RateLimit-Policy"} <= set(response["headers"]), (path, status)
            for media_type in response.get("content", {}):
                error = int(status) >= 400 and (path, status) != ("/health/ready", "503")
                assert media_type == ("application/problem+json" if error else "application/json")
        if "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= set(operation["responses"])


def test_every_problem_has_an_example_with_its_code(operations: list[Operation]) -> None:
    for _, _, operation in operations:
        for status, response in operation["responses"].items():
            examples = response.get("content", {}).get("application/problem+json", {}).get("examples", {})
            for code, example in examples.items():
                assert example["value"]["code"] == code
                assert example["value"]["status"] == int(status)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in set(re.findall(r"'\$ref': '#/([^']+)'", str(document))):
        found: Any = document
        for part in reference.split("/"):
            found = found[part]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_patches_are_offered_as_merge_patches(document: dict[str, Any]) -> None:
    content = document["paths"]["/users/{user_id}"]["patch"]["requestBody"]["content"]
    assert set(content) == {"application/json", "application/merge-patch+json"}


def test_idempotency_and_preconditions_are_documented(document: dict[str, Any]) -> None:
    def headers(path: str, method: str) -> set[str]:
        parameters = document["paths"][path][method].get("parameters", [])
        return {each["name"] for each in parameters if each["in"] == "header"}

    assert headers("/users", "post") == {"Idempotency-Key"}
    assert headers("/users/batch", "post") == {"Idempotency-Key"}
    assert headers("/users/{user_id}", "get") == {"If-None-Match"}
    assert headers("/users/{user_id}", "patch") == {"If-Match"}


async def test_a_profile_is_what_the_document_says(api: Clients) -> None:
    answer = await api.admin.post("/users", json=collected(age=34, city="Berlin"))
    UserProfile.model_validate_json(answer.content, strict=True)
    masked = await api.analyst.get("/users/u-1")
    UserProfile.model_validate_json(masked.content, strict=True)


class Links(HTMLParser):
    """Collects what a page loads or leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links |= {value or "" for name, value in attrs if name in {"href", "src"}}


async def test_the_page_shows_every_operation_and_loads_nothing(api: Clients, operations: list[Operation]) -> None:
    answer = await api.anonymous.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = Links()
    page.feed(answer.text)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert all(link == "/openapi.json" or link.startswith("#") for link in page.links)
    for path, method, _ in operations:
        assert path in answer.text
        assert f">{method.upper()}<" in answer.text
