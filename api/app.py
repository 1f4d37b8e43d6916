"""The composition root of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api.guard import require_declarations
from api.head import HeadMiddleware
from api.openapi import build_openapi
from api.problems import install_problem_handlers
from api.request_context import RequestContextMiddleware
from api.resources import Resources
from api.routes import (
    audit,
    bulks,
    codec,
    consents,
    dead_letters,
    decisions,
    documents,
    engagement,
    event_types,
    events,
    health,
    instances,
    keys,
    projection,
    retention,
    timeline,
    users,
    workflows,
)

_ROUTERS = (
    users.router,
    bulks.router,
    consents.router,
    events.router,
    event_types.router,
    timeline.router,  # after /events/types: an event's id is any text
    projection.router,
    engagement.router,
    workflows.router,
    instances.router,
    dead_letters.router,
    decisions.router,
    codec.router,
    retention.router,
    audit.router,
    keys.router,
    health.router,
    documents.router,
)


class PerennialApi(FastAPI):
    """FastAPI with the platform's own OpenAPI document."""

    def openapi(self) -> dict[str, object]:
        if not self.openapi_schema:
            self.openapi_schema = build_openapi(self)
        return self.openapi_schema


def create_app(resources: Resources) -> FastAPI:
    """The application. Its lifespan opens and closes the resources.

    Raises :class:`api.guard.UndeclaredRouteError` if a route doesn't declare its roles or its audit action.
    """
    app = PerennialApi(
        title="Perennial",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.resources = resources
    for router in _ROUTERS:
        app.include_router(router)
    if resources.settings.environment == "embedded" and resources.settings.codec_token is not None:
        app.include_router(codec.embedded_router)
    require_declarations(app)
    install_problem_handlers(app)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(RequestContextMiddleware, default_quota=resources.settings.rate_limit_per_minute)
    app.openapi()  # built now, so that no request waits for it
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    resources: Resources = app.state.resources
    await resources.open()
    try:
        yield
    finally:
        await resources.close()
