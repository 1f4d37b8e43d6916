"""The OpenAPI 3.1 document: FastAPI's, with roles, security, problems and headers added to every operation."""

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
    AlreadyRunError,
    AlreadyRunningError,
    BodyTooLargeError,
    ForbiddenError,
    InvalidContentError,
    MalformedJsonError,
    PerennialError,
    StoreUnavailableError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
)
from models.schemas.common import Problem
from models.schemas.consents import ConsentItem
from models.schemas.events import RejectedEventBatch
from models.schemas.users import UserUpsert
from workflows.catalog import catalog

_SCHEMAS = "#/components/schemas/"
_MERGE_PATCH = "application/merge-patch+json"
_EXAMPLE_ID = "4f6c0a9be1d24c2f"
_TAG = {"ETag": {"description": "Identifies this version of the resource.", "schema": {"type": "string"}}}
LOCATION = {"Location": {"description": "Path of the resource.", "schema": {"type": "string"}}}

_COMMON_HEADERS: dict[str, tuple[str, str]] = {
    "X-Request-Id": ("The request's own if it is well formed, else a new one. Logs carry it.", _EXAMPLE_ID),
    "RateLimit-Policy": ("The key's quota `q` of requests in `w` seconds.", '"default";q=100;w=60'),
    "RateLimit": ("Remaining requests `r`, and seconds until the window ends `t`.", '"default";r=99;t=60'),
}
_DESCRIPTION = """Durable customer lifecycle workflows, with profiles, events and consent.

Every request except health and documentation needs a key: `Authorization: Bearer KEY` or `X-API-Key: KEY`.
Every error is `application/problem+json` with a stable `code`. Unknown fields and parameters are rejected.
Times are RFC 3339 with an offset; responses are in UTC."""
_TAGS = [
    {"name": "users", "description": "Profiles. Personal attributes are encrypted at rest and masked by role."},
    {"name": "consents", "description": "Consent by person and purpose, with its history. Default deny."},
    {"name": "events", "description": "The event log. An accepted event is on disk."},
    {"name": "workflows", "description": "Lifecycle workflows and their instances."},
    {"name": "dead letters", "description": "Steps that failed permanently: replay or discard them."},
    {"name": "codec", "description": "Decrypts payloads of Temporal's histories."},
    {"name": "retention", "description": "Retention periods, and runs that enforce them."},
    {"name": "audit", "description": "Every access to personal data, in a hash chain with hourly checkpoints."},
    {"name": "keys", "description": "API keys."},
    {"name": "health", "description": "Probes."},
]

_KEY_ERRORS: tuple[type[PerennialError], ...] = (
    UnauthenticatedError,
    ForbiddenError,
    TooManyRequestsError,
    StoreUnavailableError,
)
_BODY_ERRORS: tuple[type[PerennialError], ...] = (MalformedJsonError, BodyTooLargeError, UnsupportedMediaTypeError)


def problems(
    *errors: type[PerennialError], created: bool = False, located: bool = False, tagged: bool = False
) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may raise these errors.

    ``created`` adds `Location` and `ETag` to its 201. ``located`` adds `Location` to its 202. ``tagged`` adds
    `ETag` to its 200, and a 304.
    """
    found: dict[int | str, dict[str, Any]] = {}
    if created:
        found[201] = {"headers": LOCATION | _TAG}
    if located:
        found[202] = {"headers": LOCATION}
    if tagged:
        found[200] = {"headers": _TAG}
        found[304] = {"description": "Not modified.", "headers": _TAG}
    _add_problems(found, errors)
    return found


def extended_problem(error: type[PerennialError], model: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route whose problem may have more fields: those of ``model``, a component."""
    either = [{"$ref": f"{_SCHEMAS}{name}"} for name in (Problem.__name__, model.__name__)]
    content = {"schema": {"anyOf": either}, "examples": {}}
    return {error.status: {"description": error.title, "content": {PROBLEM_MEDIA_TYPE: content}}}


def _add_problems(responses: dict[Any, dict[str, Any]], errors: Iterable[type[PerennialError]]) -> None:
    for kind in errors:
        status = kind.status if kind.status in responses else str(kind.status)
        response = responses.setdefault(status, {"description": kind.title})
        content = response.setdefault("content", {}).setdefault(
            PROBLEM_MEDIA_TYPE, {"schema": {"$ref": f"{_SCHEMAS}Problem"}, "examples": {}}
        )
        if kind in (AlreadyRunningError, AlreadyRunError):
            response["headers"] = LOCATION
        content["examples"][kind.code] = {"summary": kind.title, "value": _example(kind)}


def _example(kind: type[PerennialError]) -> dict[str, Any]:
    # Without the class's own constructor: each class has other arguments.
    error = kind.__new__(kind)
    PerennialError.__init__(error, kind.title + ".")
    if isinstance(error, InvalidContentError):
        error.errors = []
    return problem(error, _EXAMPLE_ID).model_dump(mode="json", exclude_none=True)


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """Build the document. Every route must be a :class:`GuardedRoute`, as ``create_app`` has checked."""
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
            assert isinstance(route, GuardedRoute)
            _complete_operation(operation, method, route)
    return document


def _version() -> str:
    try:
        return version("perennial")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0.0.0"


def _complete_components(components: dict[str, Any]) -> None:
    schemas = components.setdefault("schemas", {})
    _add_parameters(schemas)
    # FastAPI's own 422 is replaced by Problem.
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _, extra = models_json_schema(
        [
            *((Problem, "serialization"), (RejectedEventBatch, "serialization")),
            *((UserUpsert, "validation"), (ConsentItem, "validation")),
        ],
        ref_template=_SCHEMAS + "{model}",
    )
    for name, schema in extra["$defs"].items():
        schemas.setdefault(name, schema)
    components["schemas"] = dict(sorted(schemas.items()))
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}, "example": example}
        for name, (text, example) in _COMMON_HEADERS.items()
    }
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: `prn_...`."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key: `prn_...`."},
    }


def _add_parameters(schemas: dict[str, Any]) -> None:
    """Allow each workflow's parameter model as the `parameters` of an execute request."""
    for definition in catalog().values():
        schemas[definition.parameters.__name__] = definition.parameter_schema
    names = sorted(definition.parameters.__name__ for definition in catalog().values())
    schemas["ExecuteRequest"]["properties"]["parameters"]["anyOf"] = [
        {"$ref": f"{_SCHEMAS}{name}"} for name in names
    ]


def _complete_operation(operation: dict[str, Any], method: str, route: GuardedRoute) -> None:
    responses = operation["responses"]
    # FastAPI's own 422 has another body; Problem replaces it below.
    generated = responses.get("422", {}).get("content", {})
    if "application/json" in generated:
        responses.pop("422")
    roles = sorted(route.access.roles)
    operation["x-roles"] = roles
    operation["x-audit"] = route.action
    text = f"Roles: {', '.join(roles)}." if roles else "Needs no key."
    operation["description"] = f"{operation.get('description', '').strip()}\n\n{text}".strip()
    # Swagger UI shows a lock for each operation with this list, and sends the key entered at Authorize.
    operation["security"] = [{"bearer": []}, {"header": []}] if roles else []
    _add_problems(responses, () if route.access.public else _KEY_ERRORS)
    _add_problems(responses, _BODY_ERRORS if "requestBody" in operation else ())
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
