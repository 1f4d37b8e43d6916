"""Who may call a route: declared on the endpoint, checked before anything of the request is read.

A route without a declaration can't be made. The order is the same everywhere: key (401), rate limit (429),
role (403), and only then parameters and body. What an access is called in the audit log is declared here as well
(see :mod:`api.audit`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response

from api.audit import Audit
from api.bodies import read_json
from api.request_context import request_context_of
from api.resources import Resources
from api.validation import pointer
from models.errors import (
    FieldError,
    Forbidden,
    InvalidContentError,
    NotFoundError,
    PerennialError,
    TooManyRequestsError,
    UnauthenticatedError,
)
from models.schemas.fields import is_user_id
from models.vocabulary import Role
from store import api_keys
from store.api_keys import AuthenticatedKey

_ATTRIBUTE = "__perennial_access__"
_ACTION = "__perennial_action__"
_ACTION_FORM = re.compile(r"[a-z_]+\.[a-z_]+")
_UNUSABLE = ("\x00", "\ufffd")
"""NUL, which Postgres can't be asked for, and what stands for bytes that are no UTF-8; no id holds them."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class UndeclaredRouteError(Exception):
    """A route doesn't say who may call it, or what that is in the audit log; the program must not start."""


@dataclass(frozen=True)
class Access:
    """Who may call: some roles, or without any, everybody."""

    roles: frozenset[Role]

    @property
    def public(self) -> bool:
        """Whether no key is needed."""
        return not self.roles


def allow(*roles: Role) -> Callable[[Endpoint], Endpoint]:
    """Declare which roles may call an endpoint; admins always may."""
    return _declare(Access(frozenset({Role.ADMIN, *roles})))


def public(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint needs no key, and so touches no personal data: there is nobody to name."""
    return _declare(Access(frozenset()))(endpoint)


def audited(action: str) -> Callable[[Endpoint], Endpoint]:
    """Declare what an access is called in the audit log: `resource.verb`. The endpoint then notes whose it was."""
    if _ACTION_FORM.fullmatch(action) is None:
        raise ValueError(f"{action!r} is no resource.verb")

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ACTION, action)
        return endpoint

    return mark


def not_audited(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint touches no personal data."""
    setattr(endpoint, _ACTION, None)
    return endpoint


def _declare(access: Access) -> Callable[[Endpoint], Endpoint]:
    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, access)
        return endpoint

    return mark


class GuardedRoute(APIRoute):
    """A route that lets nobody in unasked. Use as ``route_class`` of every router."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        access: Access | None = getattr(endpoint, _ATTRIBUTE, None)
        if access is None:
            raise UndeclaredRouteError(f"{path} declares neither @allow(...) nor @public.")
        if access.public == hasattr(endpoint, _ACTION):
            raise UndeclaredRouteError(
                f"{path} must declare @audited(...) or @impersonal if it needs a key, and neither if it is public."
            )
        self.access = access
        self.action: str | None = getattr(endpoint, _ACTION, None)
        """What an access is called in the audit log; None where no personal data is touched."""
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, behind the guard."""
        inner = super().get_route_handler()
        parameters = dict(_query_parameters(self.dependant))
        items = _items_judged_apart(self)

        async def enter(request: Request, resources: Resources) -> Response:
            if not self.access.public:
                await _admit(request, resources, self)
            _check_path(request)
            _check_query(request, parameters)
            if self.body_field is not None:
                request = await read_json(request, resources.settings.max_body_bytes, items)
            return await inner(request)

        async def handle(request: Request) -> Response:
            resources: Resources = request.app.state.resources
            exchange = request_context_of(request)
            try:
                response = await enter(request, resources)
            except PerennialError as error:
                if exchange.audit is not None:
                    await exchange.audit.refuse(resources.database, error)
                raise
            if exchange.audit is not None:
                await exchange.audit.finish(resources.database)
            return response

        return handle


def _items_judged_apart(route: APIRoute) -> str | None:
    """The list of a batch's body whose items are judged one by one; None for every other body."""
    model = route.body_field.field_info.annotation if route.body_field is not None else None
    return getattr(model, "judged_apart", None)


def require_declarations(app: FastAPI) -> None:
    """Raise :class:`UndeclaredRouteError` unless every route of an application is guarded."""
    for context in iter_route_contexts(app.routes):
        if not isinstance(context.original_route, GuardedRoute):
            raise UndeclaredRouteError(f"{context.path} is no GuardedRoute.")


async def _admit(request: Request, resources: Resources, route: GuardedRoute) -> None:
    """Authenticate, count the request, check the role; raises the error of the first that fails."""
    secret = _presented_key(request)
    if secret is None or not api_keys.well_formed(secret):
        raise UnauthenticatedError
    admission = await _spend(resources, secret)
    if admission is None:
        raise UnauthenticatedError
    exchange = request_context_of(request)
    exchange.admission = admission
    if admission.exceeded:
        raise TooManyRequestsError(admission.reset_seconds)
    if route.action is not None:
        exchange.audit = Audit(
            route.action, admission.key_id, admission.role, exchange.request_id, _user_in_path(request)
        )
    if admission.role not in route.access.roles:
        names = ", ".join(sorted(route.access.roles))
        raise Forbidden(f"This needs a key with one of the roles {names}.")


async def _spend(resources: Resources, secret: str) -> AuthenticatedKey | None:
    quota = resources.settings.rate_limit_per_minute
    async with resources.limiter.connection() as connection:
        return await api_keys.authenticate(connection, secret, default_quota=quota)


def _presented_key(request: Request) -> str | None:
    """The one key that a request presents; None for none, several, or another scheme."""
    bearers = request.headers.getlist("authorization")
    keys = request.headers.getlist("x-api-key")
    if len(bearers) + len(keys) != 1:
        return None
    if keys:
        return keys[0].strip()
    scheme, _, secret = bearers[0].strip().partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _user_in_path(request: Request) -> str | None:
    """The path's user id, if it can be one: what can't is nobody's, and may be personal."""
    user_id = request.path_params.get("user_id")
    return user_id if isinstance(user_id, str) and is_user_id(user_id) else None


def _check_path(request: Request) -> None:
    for value in request.path_params.values():
        if any(character in str(value) for character in _UNUSABLE):
            raise NotFoundError("There is nothing here.")


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """The names of a route's query parameters, each with whether it may come more than once."""
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        yield field.alias, any(_is_several(each) for each in (annotation, *get_args(annotation)))
    for dependency in dependant.dependencies:
        yield from _query_parameters(dependency)


def _is_several(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Iterable)


def _check_query(request: Request, parameters: dict[str, bool]) -> None:
    errors, seen = [], set()
    for name, value in request.query_params.multi_items():
        if name not in parameters:
            errors.append(_query_error(name, "unknown_parameter", "is not known here"))
        elif name in seen and not parameters[name]:
            errors.append(_query_error(name, "duplicate_parameter", "must be sent once"))
        elif any(character in value for character in _UNUSABLE):
            errors.append(_query_error(name, "invalid_characters", "must be UTF-8 without U+0000"))
        seen.add(name)
    if errors:
        raise InvalidContentError(errors)


def _query_error(name: str, code: str, message: str) -> FieldError:
    return FieldError(pointer(("query", name)), code, message)
