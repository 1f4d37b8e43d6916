"""`/openapi.json` is complete; `/docs` loads nothing from another host."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import PurePosixPath
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.guard import GuardedRoute
from models.schemas.events import RejectedEventBatch
from models.schemas.users import UserProfile
from tests.support.builders import collected
from tests.support.http import Clients, assert_problem

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


async def test_the_document_needs_no_key(api: Clients, document: dict[str, Any]) -> None:
    answer = await api.anonymous.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document
    assert document["openapi"].startswith("3.1")


def test_every_route_is_in_it(app: FastAPI, operations: list[Operation]) -> None:
    described = {(path, method) for path, method, _ in operations}
    hidden = {"/openapi.json", "/docs", "/docs/{asset}", "/codec/{token}/decode"}
    for context in iter_route_contexts(app.routes):
        if context.path not in hidden and context.methods != {"OPTIONS"}:
            assert {(context.path_format, method.lower()) for method in context.methods or ()} <= described


def test_every_operation_names_its_roles(app: FastAPI, operations: list[Operation]) -> None:
    routes = {
        (context.path_format, method.lower()): context.original_route
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


def test_every_operation_has_a_description_and_every_response_its_headers(operations: list[Operation]) -> None:
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


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    for reference in set(re.findall(r"'\$ref': '#/([^']+)'", str(document))):
        found: Any = document
        for part in reference.split("/"):
            found = found[part]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_a_callback_and_its_secret_stand_beside_the_execute(document: dict[str, Any]) -> None:
    operation = document["paths"]["/workflows/{workflow_id}/execute"]["post"]
    for status in ("200", "202"):
        shown = operation["responses"][status]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert {"callback", "callback_secret"} <= set(document["components"]["schemas"][shown]["properties"])
    [[(url, callback)]] = [list(each.items()) for each in operation["callbacks"].values()]
    assert url == "{$request.body#/callback_url}"
    assert {each["name"] for each in callback["post"]["parameters"]} == {
        *("webhook-id", "webhook-timestamp", "webhook-signature")
    }
    sent = callback["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert {"type", "timestamp", "data"} <= set(document["components"]["schemas"][sent]["properties"])


async def test_the_answer_to_a_batch_without_a_usable_event_has_the_documented_shape(
    api: Clients, document: dict[str, Any]
) -> None:
    content = document["paths"]["/events/batch"]["post"]["responses"]["422"]["content"]
    assert {"$ref": "#/components/schemas/RejectedEventBatch"} in content["application/problem+json"]["schema"][
        "anyOf"
    ]
    answer = await api.integrator.post("/events/batch", json={"events": [{"event_id": "e-1"}]})
    assert answer.status_code == 422
    RejectedEventBatch.model_validate_json(answer.content, strict=True)
    assert set(answer.json()) == set(document["components"]["schemas"]["RejectedEventBatch"]["properties"])


def test_patches_are_offered_as_merge_patches(document: dict[str, Any]) -> None:
    content = document["paths"]["/users/{user_id}"]["patch"]["requestBody"]["content"]
    assert set(content) == {"application/json", "application/merge-patch+json"}


def test_addresses_of_instances_and_bulks_are_documented(document: dict[str, Any]) -> None:
    execute = "/workflows/{workflow_id}/execute"
    for path, statuses in (
        (execute, ("200", "202", "409")),
        (f"{execute}/batch", ("202",)),
        ("/dead-letters/{dead_letter_id}/replay", ("202",)),
    ):
        responses = document["paths"][path]["post"]["responses"]
        assert [each for each in statuses if "Location" not in responses[each]["headers"]] == [], path


def test_idempotency_and_preconditions_are_documented(document: dict[str, Any]) -> None:
    def headers(path: str, method: str) -> set[str]:
        parameters = document["paths"][path][method].get("parameters", [])
        return {each["name"] for each in parameters if each["in"] == "header"}

    assert headers("/users", "post") == {"Idempotency-Key"}
    assert headers("/users/batch", "post") == {"Idempotency-Key"}
    assert headers("/users/{user_id}", "get") == {"If-None-Match"}
    assert headers("/users/{user_id}", "patch") == {"If-Match"}


async def test_a_profile_has_the_documented_shape(api: Clients) -> None:
    answer = await api.admin.post("/users", json=collected(age=34, city="Berlin"))
    UserProfile.model_validate_json(answer.content, strict=True)
    masked = await api.analyst.get("/users/u-1")
    UserProfile.model_validate_json(masked.content, strict=True)


def test_every_operation_with_a_key_names_a_declared_security_scheme(
    document: dict[str, Any], operations: list[Operation]
) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {name: (each["type"], each.get("scheme")) for name, each in schemes.items()} == {
        "bearer": ("http", "bearer"),
        "header": ("apiKey", None),
    }
    named = {name for _, _, operation in operations for each in operation["security"] for name in each}
    assert named == set(schemes)


class Page(HTMLParser):
    """Collects the addresses that a page loads, and everything inline that its policy would block."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: dict[str, set[str]] = {}
        self.inline: list[str] = []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attrs:
            if name in {"href", "src"}:
                self.loaded.setdefault(tag, set()).add(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in {"script", "style"} and data.strip():
            self.inline.append(data)


async def test_the_page_loads_its_scripts_and_styles_from_this_api_without_a_key(api: Clients) -> None:
    answer = await api.anonymous.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    page = Page(answer.text)
    assert page.inline == []
    assert page.loaded == {
        "script": {"/docs/swagger-ui-bundle.js", "/docs/start.js"},
        "link": {"/docs/swagger-ui.css", "/docs/favicon-32x32.png"},
    }
    types = {".js": "text/javascript", ".css": "text/css", ".png": "image/png"}
    for address in set().union(*page.loaded.values()):
        asset = await api.anonymous.get(address)
        assert asset.status_code == 200, address
        assert asset.headers["content-type"].partition(";")[0] == types[PurePosixPath(address).suffix]
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert "max-age" in asset.headers["cache-control"]


async def test_the_policy_of_the_page_admits_its_own_files_and_requests_to_this_api_alone(api: Clients) -> None:
    header = (await api.anonymous.get("/docs")).headers["content-security-policy"]
    assert dict(directive.split(" ", 1) for directive in header.split("; ")) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


async def test_page_start_script_and_style_sheet_name_no_other_host(api: Clients) -> None:
    for path in ("/docs", "/docs/start.js"):
        assert "//" not in (await api.anonymous.get(path)).text, path
    style = (await api.anonymous.get("/docs/swagger-ui.css")).text
    assert "@import" not in style
    loaded = re.findall(r"url\(\s*[\"']?([^\"')]{0,40})", style)
    assert loaded
    assert all(address.startswith("data:") for address in loaded)


async def test_the_start_script_shows_this_apis_document_and_stores_no_key(api: Clients) -> None:
    script = (await api.anonymous.get("/docs/start.js")).text
    assert 'url: "/openapi.json"' in script
    assert "persistAuthorization: false" in script
    assert "validatorUrl: null" in script
    assert "SwaggerUIBundle" in (await api.anonymous.get("/docs/swagger-ui-bundle.js")).text


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "__init__.py",
        "swagger-ui.css/",
        "/swagger-ui.css",
        "..%2fmain.py",
        "%2e%2e%2f__init__.py",
        "..%5cmain.py",
        "swagger-ui.css%00.png",
        "%2fetc%2fpasswd",
    ],
)
async def test_no_path_below_docs_leaves_the_set_of_its_files(api: Clients, name: str) -> None:
    assert_problem(await api.anonymous.get(f"/docs/{name}"), 404, "not_found")


async def test_a_browser_that_has_a_file_gets_no_second_copy(api: Clients) -> None:
    first = await api.anonymous.get("/docs/swagger-ui-bundle.js")
    again = await api.anonymous.get("/docs/swagger-ui-bundle.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == first.headers["etag"]
    other = await api.anonymous.get("/docs/start.js", headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200
