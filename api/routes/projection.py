"""`/users/{user_id}/transactions`, `/features` and `/poison-events`: results and failures of the projector."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf, UserIdInPath
from api.guard import GuardedRoute, allow, audited
from api.openapi import problems
from api.pages import PageQuery
from api.responses import json_response
from models.errors import (
    AlreadySettledError,
    EventGoneError,
    PoisonEventNotFoundError,
    StillUnusableError,
    UserErasedError,
    UserNotFoundError,
)
from models.rules.folding import TransactionEntry
from models.rules.money import format_amount
from models.schemas.common import Page
from models.schemas.events import PoisonEventView
from models.schemas.users import FeatureUsageView, TransactionView
from models.tables.projections import Transaction
from models.vocabulary import Role
from privacy.masking import value_for
from store.events import poison, projection
from store.events.poison import PoisonStatus, StoredPoison
from store.users import data_keys, users
from workflows.catalog import triggers

router = APIRouter(route_class=GuardedRoute)

_TRANSACTIONS = "transactions"
_FEATURES = "features"
_POISON = "poison-events"


@router.get(
    "/users/{user_id}/transactions",
    tags=["users"],
    response_model=Page[TransactionView],
    responses=problems(UserNotFoundError, UserErasedError),
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("transactions.list")
async def list_transactions(
    user_id: UserIdInPath,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    page: PageQuery,
    audit: AuditOf,
) -> Response:
    """List a user's purchases and refunds, newest first, each with its event's id."""
    before = page.position(_TRANSACTIONS, datetime, str)
    await users.require_present(connection, user_id)
    key = await data_keys.require(connection, resources.cipher, user_id)
    rows = await projection.transactions_page(connection, key, before=before, limit=page.rows_to_fetch)
    data, pagination = page.rows_and_pagination(_TRANSACTIONS, rows, lambda row: (row.occurred_at, row.event_id))
    audit.note(fields=TransactionView.model_fields, details={"shown": len(data)})
    shown = [_transaction(caller.role, row) for row in data]
    return json_response(Page[TransactionView](data=shown, pagination=pagination))


@router.get(
    "/users/{user_id}/features",
    tags=["users"],
    response_model=Page[FeatureUsageView],
    responses=problems(UserNotFoundError, UserErasedError),
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("features.list")
async def list_features(
    user_id: UserIdInPath, connection: InTransaction, page: PageQuery, audit: AuditOf
) -> Response:
    """List all features that a user has used, ordered by name. The profile shows the most used ones alone."""
    after = page.position(_FEATURES, str)
    await users.require_present(connection, user_id)
    rows = await projection.features_page(
        connection, user_id, after=after[0] if after else None, limit=page.rows_to_fetch
    )
    data, pagination = page.rows_and_pagination(_FEATURES, rows, lambda row: (row[0],))
    audit.note(fields=FeatureUsageView.model_fields, details={"shown": len(data)})
    shown = [FeatureUsageView(feature=feature, uses=uses) for feature, uses in data]
    return json_response(Page[FeatureUsageView](data=shown, pagination=pagination))


def _transaction(role: Role, row: TransactionEntry) -> TransactionView:
    return TransactionView(
        event_id=row.event_id,
        kind=row.kind,
        order_id=value_for(role, Transaction, "order_id", row.order_id),
        amount=format_amount(row.amount),
        currency=row.currency,
        occurred_at=row.occurred_at,
    )


@router.get("/poison-events", tags=["events"], response_model=Page[PoisonEventView])
@allow()
@audited("poison_events.list")
async def list_poison_events(
    connection: InTransaction,
    page: PageQuery,
    audit: AuditOf,
    status: Annotated[PoisonStatus | None, Query(description="Only events with this status.")] = None,
) -> Response:
    """List the events that the projector couldn't process and has set aside, newest first."""
    rows = await poison.page(
        connection, status=status, before=page.position(_POISON, datetime, str), limit=page.rows_to_fetch
    )
    data, pagination = page.rows_and_pagination(_POISON, rows, lambda row: (row.set_aside_at, row.poison_id))
    audit.note(subjects=[row.user_id for row in data], details={"shown": len(data)})
    return json_response(Page[PoisonEventView](data=[_poison(row) for row in data], pagination=pagination))


@router.post(
    "/poison-events/{poison_id}/replay",
    tags=["events"],
    response_model=PoisonEventView,
    responses=problems(
        PoisonEventNotFoundError, AlreadySettledError, StillUnusableError, EventGoneError, UserErasedError
    ),
)
@allow()
@audited("poison_events.replay")
async def replay_poison_event(
    poison_id: str, connection: InTransaction, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Project an event that was set aside, exactly once. If that fails again, the event stays `open`."""
    settled = await poison.replay(
        connection,
        resources.cipher,
        triggers(),
        poison_id,
        resources.periods,
        resources.settings.dimension_values,
    )
    audit.note(settled.user_id)
    return json_response(_poison(settled))


@router.post(
    "/poison-events/{poison_id}/discard",
    tags=["events"],
    response_model=PoisonEventView,
    responses=problems(PoisonEventNotFoundError, AlreadySettledError),
)
@allow()
@audited("poison_events.discard")
async def discard_poison_event(poison_id: str, connection: InTransaction, audit: AuditOf) -> Response:
    """Discard an event that was set aside. The event itself stays in the log."""
    settled = await poison.settle(connection, poison_id, "discarded")
    audit.note(settled.user_id)
    return json_response(_poison(settled))


def _poison(row: StoredPoison) -> PoisonEventView:
    return PoisonEventView(**vars(row))
