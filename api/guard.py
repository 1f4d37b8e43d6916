"""Declares the roles that may call a route, and enforces them before the body is read.

A route without a declaration can't be created. Every request is checked in the same order: key (401), rate limit
(429), role (403), path (404), query (422), body (400, 413, 415, 422). The declarations also name the access in the
audit log, see :mod:`api.audit`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

from annotated_types import MaxLen
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from api.audit import Audit
from api.bodies import read_json
from api.parsing import names_in
from api.request_context import request_context_of
from api.resources import Resources
from models.errors import (
    FieldError,
    ForbiddenError,
    InvalidContentError,
    NotFoundError,
    TooManyRequestsError,
    UnauthenticatedError,
    UserNotFoundError,
)
from models.schemas.fields import is_user_id
from models.schemas.validation import MOST_LISTED_ERRORS, field_errors, pointer
from models.vocabulary import Role
from store import api_keys
from store.api_keys import AuthenticatedKey

_ACCESS = "__perennial_access__"
_ACTION = "__perennial_action__"
_ACTION_FORM = re.compile(r"[a-z_]+\.[a-z_]+")
_UNUSABLE = re.compile("[\x00\ufffd]")
"""NUL, which Postgres rejects, and the replacement for bytes that aren't UTF-8. No id contains either."""

_CROWD = 500
"""More names than any valid body has, except in objects with free names."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class UndeclaredRouteError(Exception):
    """A route doesn't declare its roles or its audit action. The process must not start."""


@dataclass(frozen=True)
class Access:
    """The roles that may call a route. Without any it is public and needs no key."""

    roles: frozenset[Role]

    @property
    def public(self) -> bool:
        return not self.roles


def allow(*roles: Role) -> Callable[[Endpoint], Endpoint]:
    """Declare the roles that may call an endpoint; admins always may."""
    return _declare(_ACCESS, Access(frozenset({Role.ADMIN, *roles})))


def public(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint needs no key. It must not touch personal data, since no caller could be audited."""
    return _declare(_ACCESS, Access(frozenset()))(endpoint)


def audited(action: str) -> Callable[[Endpoint], Endpoint]:
    """Declare the action of an endpoint in the audit log, `resource.verb`. The endpoint must then note its row."""
    if _ACTION_FORM.fullmatch(action) is None:
        raise ValueError(f"{action!r} is not resource.verb")
    return _declare(_ACTION, action)


def not_audited(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint touches no personal data."""
    return _declare(_ACTION, None)(endpoint)


def _declare(name: str, value: object) -> Callable[[Endpoint], Endpoint]:
    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, name, value)
        return endpoint

    return mark


class GuardedRoute(APIRoute):
    """A route that enforces what its endpoint declares: the ``route_class`` of every router."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        access: Access | None = getattr(endpoint, _ACCESS, None)
        if access is None:
            raise UndeclaredRouteError(f"{path} declares neither @allow(...) nor @public.")
        if access.public == hasattr(endpoint, _ACTION):
            raise UndeclaredRouteError(
                f"{path} must declare either @audited(...) or @not_audited, or be @public with neither."
            )
        self.access = access
        self.action: str | None = getattr(endpoint, _ACTION, None)
        """The action in the audit log; None if the route touches no personal data."""
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, after the checks, and within the request's audit row and transaction."""
        endpoint = super().get_route_handler()
        public, roles, action = self.access.public, self.access.roles, self.action
        parameters = dict(_query_parameters(self.dependant))
        model = _body_model(self)
        lists, items = _lists(model), getattr(model, "items_field", None)

        async def handle(request: Request) -> Response:
            context = request_context_of(request)
            resources: Resources = request.app.state.resources
            user_id = request.path_params.get("user_id")
            impossible = user_id is not None and not is_user_id(user_id)
            audit: AbstractAsyncContextManager[object] = nullcontext()
            if not public:
                key = await _authenticate(request, resources)
                if action is not None:
                    # An id that can't be a user's may be personal data, so the audit log must not contain it.
                    known = None if impossible else user_id
                    context.audit = audit = Audit(
                        resources.database, action, key.key_id, key.roles_text, context.request_id, known
                    )
            async with audit, context.exit_stack:
                if context.key is not None and context.key.roles.isdisjoint(roles):
                    raise ForbiddenError(f"This needs a key with one of the roles {', '.join(sorted(roles))}.")
                _check_parameters(request, parameters)
                if self.body_field is not None:
                    request = await read_json(request, resources.settings.max_body_bytes, lists, items)
                    _refuse_crowd(model, await request.json())
                if impossible:
                    raise UserNotFoundError
                return await endpoint(request)

        return handle


def _body_model(route: APIRoute) -> Any:
    return route.body_field.field_info.annotation if route.body_field is not None else None


def _lists(model: Any) -> dict[str, int]:
    """The most items of each list in a body, by name."""
    fields = getattr(model, "model_fields", {})
    return {
        field.alias or name: limit.max_length
        for name, field in fields.items()
        for limit in field.metadata
        if isinstance(limit, MaxLen) and get_origin(field.annotation) is list
    }


def _refuse_crowd(model: Any, document: Any) -> None:
    """Validate an object with many names, and list few of its errors. FastAPI would copy all of them thrice."""
    if isinstance(document, dict) and names_in(document) > _CROWD:
        try:
            model.model_validate(document)
        except ValidationError as error:
            listed = error.errors(include_url=False)[:MOST_LISTED_ERRORS]
            raise InvalidContentError(field_errors(listed), count=error.error_count()) from None


def require_declarations(app: FastAPI) -> None:
    """Raise :class:`UndeclaredRouteError` unless every route of an application is a :class:`GuardedRoute`."""
    for context in iter_route_contexts(app.routes):
        if not isinstance(context.original_route, GuardedRoute):
            raise UndeclaredRouteError(f"{context.path} is not a GuardedRoute.")


async def _authenticate(request: Request, resources: Resources) -> AuthenticatedKey:
    """Check the key and count the request. Raises :class:`UnauthenticatedError`, :class:`TooManyRequestsError`."""
    secret, client = _presented_key(request), request.client.host if request.client else None
    resources.failures.check(client, secret)
    if secret is None or not api_keys.well_formed(secret):
        resources.failures.fail(client, secret)
        raise UnauthenticatedError
    async with resources.limiter.connection() as connection:
        key = await api_keys.authenticate(
            connection, secret, default_quota=resources.settings.rate_limit_per_minute
        )
    if key is None:
        resources.failures.fail(client, secret)
        raise UnauthenticatedError
    resources.failures.accept(secret)
    request_context_of(request).key = key  # before a 429, whose headers show the key's own limit
    if key.exceeded:
        raise TooManyRequestsError(key.reset_seconds)
    return key


def _presented_key(request: Request) -> str | None:
    """The one key that a request presents; None for no key, several keys or another scheme."""
    bearers = request.headers.getlist("authorization")
    keys = request.headers.getlist("x-api-key")
    if len(bearers) + len(keys) != 1:
        return None
    if keys:
        return keys[0].strip()
    scheme, _, secret = bearers[0].strip().partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _check_parameters(request: Request, known: dict[str, bool]) -> None:
    """Refuse parameters that no endpoint can use. ``known`` comes from :func:`_query_parameters`."""
    if any(_UNUSABLE.search(str(value)) for value in request.path_params.values()):
        raise NotFoundError("There is nothing here.")
    errors, seen = [], set()
    for name, value in request.query_params.multi_items():
        if name not in known:
            errors.append(_query_error(name, "unknown_parameter", "is not known here"))
        elif name in seen and not known[name]:
            errors.append(_query_error(name, "duplicate_parameter", "must be sent once"))
        elif _UNUSABLE.search(value):
            errors.append(_query_error(name, "invalid_characters", "must be UTF-8 without U+0000"))
        seen.add(name)
        if len(errors) == MOST_LISTED_ERRORS:
            break
    if errors:
        raise InvalidContentError(errors)


def _query_error(name: str, code: str, message: str) -> FieldError:
    return FieldError(pointer(("query", name)), code, message)


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """The names of a route's query parameters, each with whether it may be repeated."""
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        yield field.alias, any(_is_list(each) for each in (annotation, *get_args(annotation)))
    for dependency in dependant.dependencies:
        yield from _query_parameters(dependency)


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Iterable)
