"""The OpenAPI 3.1 document: what FastAPI derives from the routes, and what every route here has in common."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from pydantic.json_schema import models_json_schema

from api.guard import GuardedRoute
from api.responses import PROBLEM_MEDIA_TYPE, problem
from models.errors import (
    BodyTooLargeError,
    Forbidden,
    InvalidContentError,
    MalformedJsonError,
    PerennialError,
    StoreUnavailableError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
)
from models.schemas.problems import Problem
from models.schemas.users import UserUpsert
from workflows.catalog import catalog

_SCHEMAS = "#/components/schemas/"
_MERGE_PATCH = "application/merge-patch+json"
_EXAMPLE_ID = "4f6c0a9be1d24c2f"
_TAG = {"ETag": {"description": "Names this version of the resource.", "schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}

_COMMON_HEADERS: dict[str, tuple[str, str]] = {
    "X-Request-Id": ("The request's own, if it had a sane one; else a new one. Logs carry it.", _EXAMPLE_ID),
    "RateLimit-Policy": ("The key's quota `q` of requests in `w` seconds.", '"default";q=100;w=60'),
    "RateLimit": ("Requests that remain `r`, and seconds until the window ends `t`.", '"default";r=99;t=60'),
}
_DESCRIPTION = """Durable customer lifecycle workflows, with profiles, events and consent.

Every request but those for health and documentation needs a key: `Authorization: Bearer KEY`, or `X-API-Key: KEY`.
Every error is `application/problem+json` with a stable `code`. Unknown fields and parameters are refused.
Times are RFC 3339 with an offset, answered in UTC."""
_TAGS = [
    {"name": "users", "description": "Profiles. Personal attributes are encrypted at rest and masked by role."},
    {"name": "consents", "description": "What a person has agreed to, and when. Default deny."},
    {"name": "events", "description": "The log of what people did; accepted means on disk."},
    {"name": "workflows", "description": "Lifecycle workflows and their instances."},
    {"name": "dead letters", "description": "What has failed for good: replay or discard it."},
    {"name": "codec", "description": "Opens what is encrypted in Temporal's histories."},
    {"name": "retention", "description": "How long data is kept."},
    {"name": "audit", "description": "Every access to personal data, encrypted hourly into a chain."},
    {"name": "keys", "description": "API keys."},
    {"name": "health", "description": "Probes."},
]

_OF_KEYS: tuple[type[PerennialError], ...] = (
    UnauthenticatedError,
    Forbidden,
    TooManyRequestsError,
    StoreUnavailableError,
)
_OF_BODIES: tuple[type[PerennialError], ...] = (MalformedJsonError, BodyTooLargeError, UnsupportedMediaTypeError)


def problems(
    *errors: type[PerennialError], created: bool = False, tagged: bool = False
) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may end in these errors.

    ``created``: its 201 carries `Location` and `ETag`; ``tagged``: its 200 an `ETag`, and it may be a 304.
    """
    found: dict[int | str, dict[str, Any]] = {}
    if created:
        found[201] = {"headers": _LOCATION | _TAG}
    if tagged:
        found[200] = {"headers": _TAG}
        found[304] = {"description": "Not modified.", "headers": _TAG}
    _add_problems(found, errors)
    return found


def _add_problems(responses: dict[Any, dict[str, Any]], errors: Iterable[type[PerennialError]]) -> None:
    for kind in errors:
        status = kind.status if kind.status in responses else str(kind.status)
        response = responses.setdefault(status, {"description": kind.title})
        content = response.setdefault("content", {}).setdefault(
            PROBLEM_MEDIA_TYPE, {"schema": {"$ref": f"{_SCHEMAS}Problem"}, "examples": {}}
        )
        content["examples"][kind.code] = {"summary": kind.title, "value": _example(kind)}


def _example(kind: type[PerennialError]) -> dict[str, Any]:
    error = kind.__new__(kind)
    PerennialError.__init__(error, kind.title + ".")
    if isinstance(error, InvalidContentError):
        error.errors = []
    return problem(error, _EXAMPLE_ID).model_dump(mode="json", exclude_none=True)


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(
        title="Perennial",
        version=_version(),
        openapi_version="3.1.0",
        description=_DESCRIPTION,
        routes=app.routes,
        tags=_TAGS,
    )
    _complete_components(document.setdefault("components", {}))
    routes = {
        (context.path_format, method.lower()): context.original_route
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = routes[path, method]
            assert isinstance(route, GuardedRoute)  # create_app has made sure of it
            _complete_operation(operation, method, route)
    return document


def _version() -> str:
    try:
        return version("perennial")
    except PackageNotFoundError:  # run from a source tree that isn't installed
        return "0.0.0"


def _complete_components(components: dict[str, Any]) -> None:
    schemas = components.setdefault("schemas", {})
    _add_parameters(schemas)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _, extra = models_json_schema(
        [(Problem, "serialization"), (UserUpsert, "validation")], ref_template=_SCHEMAS + "{model}"
    )
    for name, schema in extra["$defs"].items():
        schemas.setdefault(name, schema)
    components["schemas"] = dict(sorted(schemas.items()))
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}, "example": example}
        for name, (text, example) in _COMMON_HEADERS.items()
    }
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, `prn_...`."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
    }


def _add_parameters(schemas: dict[str, Any]) -> None:
    """The parameters of every workflow, under the name of their model, as what an execute may send."""
    for definition in catalog().values():
        schemas[definition.parameters.__name__] = definition.parameter_schema()
    names = sorted(definition.parameters.__name__ for definition in catalog().values())
    schemas["ExecuteRequest"]["properties"]["parameters"]["anyOf"] = [
        {"$ref": f"{_SCHEMAS}{name}"} for name in names
    ]


def _complete_operation(operation: dict[str, Any], method: str, route: GuardedRoute) -> None:
    responses = operation["responses"]
    generated = responses.get("422", {}).get("content", {})
    if "application/json" in generated:
        responses.pop("422")
    roles = sorted(route.access.roles)
    operation["x-roles"] = roles
    operation["x-audit"] = route.action
    text = f"Roles: {', '.join(roles)}." if roles else "Needs no key."
    operation["description"] = f"{operation.get('description', '').strip()}\n\n{text}".strip()
    operation["security"] = [{"bearer": []}, {"header": []}] if roles else []
    _add_problems(responses, () if route.access.public else _OF_KEYS)
    _add_problems(responses, _OF_BODIES if "requestBody" in operation else ())
    _add_problems(responses, (InvalidContentError,))
    if method == "patch":
        content = operation["requestBody"]["content"]
        content.setdefault(_MERGE_PATCH, content["application/json"])
    for response in responses.values():
        headers = response.setdefault("headers", {})
        headers |= {name: {"$ref": f"#/components/headers/{name}"} for name in _COMMON_HEADERS}
    for status in ("429", "503"):
        if status in responses:
            responses[status]["headers"]["Retry-After"] = {
                "description": "Seconds to wait.",
                "schema": {"type": "integer", "minimum": 1},
            }
    operation["responses"] = dict(sorted(responses.items()))
