"""`/events/types`: the declared event types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from api.dependencies import AuditOf, InTransaction
from api.guard import GuardedRoute, allow, audited, not_audited
from api.pages import PageQuery
from api.responses import json_response
from models.errors import FieldError, InvalidContentError
from models.rules.event_types import NAME, NAME_LENGTH, EventType, define
from models.rules.stages import STAGE_CHANGED
from models.rules.taxonomy import STANDARD
from models.schemas.common import Page
from models.schemas.events import EventTypeInput, EventTypeView
from models.vocabulary import Basis, Role
from store.events import types
from store.events.types import StoredEventType

router = APIRouter(route_class=GuardedRoute, tags=["events"])

_LIST = "event-types"
_NAME = "/path/event_type"
_BASIS = frozenset({"basis", "basis_reason"})
"""The fields that a standard type takes."""


@router.get("/events/types", response_model=Page[EventTypeView])
@allow(Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR)
@not_audited
async def list_event_types(connection: InTransaction, page: PageQuery) -> Response:
    """List the declared event types, the standard ones first. An undeclared type accepts any properties."""
    views = [_view(stored) for stored in await types.list_all(connection)]
    rows = views[_start(views, page.position(_LIST, str)) :]
    data, pagination = page.rows_and_pagination(_LIST, rows[: page.rows_to_fetch], lambda view: (view.event_type,))
    return json_response(Page[EventTypeView](data=data, pagination=pagination))


def _start(views: Sequence[EventTypeView], after: tuple[str] | None) -> int:
    """The index at which a page begins, also if the type before it no longer exists."""
    if after is None:
        return 0
    [name] = after
    if name in STANDARD:
        return 1 + list(STANDARD).index(name)
    # Custom types follow the standard ones, in the order of their names.
    return sum(view.standard or view.event_type <= name for view in views)


@router.put(
    "/events/types/{event_type}",
    response_model=EventTypeView,
    responses={201: {"model": EventTypeView, "description": "The type is new."}},
)
@allow(Role.ADMIN)
@audited("event_types.change")
async def declare_event_type(
    event_type: Annotated[str, Path(description="`category.action`", examples=["lesson.finish"])],
    body: EventTypeInput,
    connection: InTransaction,
    audit: AuditOf,
) -> Response:
    """Define or change a custom event type, or the legal basis of a standard one.

    It applies to the next event in every process. Stored events keep the basis under which they were stored.
    """
    declared = _declared(event_type, body)
    if body.basis is not Basis.CONSENT and not (body.basis_reason or "").strip():
        raise _invalid("/basis_reason", "required", f"must say why the basis is '{body.basis}'")
    change = await types.declare(connection, declared, body.basis, body.basis_reason)
    audit.note(
        details={
            "event_type": event_type,
            "pii": len(declared.pii),
            "dimensions": len(declared.dimensions),
            "basis": body.basis.value,
            "basis_before": change.basis_before.value,
            "basis_reason": body.basis_reason,
        }
    )
    return json_response(_view(change.stored), 201 if change.is_new and not declared.standard else 200)


def _declared(event_type: str, body: EventTypeInput) -> EventType:
    """The type that a request declares; a standard one keeps all except its basis."""
    if len(event_type) > NAME_LENGTH or NAME.fullmatch(event_type) is None:
        raise _invalid(_NAME, "invalid_event_type", "must be category.action, in lower case with underscores")
    standard = STANDARD.get(event_type)
    if event_type == STAGE_CHANGED:
        raise _invalid(_NAME, "read_only", "is recorded by the platform, and never without consent")
    if standard is not None:
        if body.model_fields_set - _BASIS:
            raise _invalid(_NAME, "read_only", "is a standard type, which takes only basis and basis_reason")
        return standard
    if "json_schema" not in body.model_fields_set:
        raise _invalid("/schema", "required", "is required")
    return define(event_type, body.description, body.json_schema, body.pii, body.dimensions)


def _invalid(pointer: str, code: str, message: str) -> InvalidContentError:
    return InvalidContentError([FieldError(pointer, code, message)])


def _view(stored: StoredEventType) -> EventTypeView:
    declared = stored.declared
    return EventTypeView(
        event_type=declared.event_type,
        description=declared.description,
        json_schema=dict(declared.schema),
        pii=list(declared.pii),
        dimensions=list(declared.dimensions),
        basis=stored.basis,
        basis_reason=stored.basis_reason,
        standard=declared.standard,
        changed_at=stored.changed_at,
    )
