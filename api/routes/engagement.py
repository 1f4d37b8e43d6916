"""`/users/{user_id}/engagement`: the engagement score of a user, explained."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import AuditOf, InTransaction, ResourcesOf, UserIdInPath
from api.guard import GuardedRoute, allow, audited
from api.openapi import problems
from api.responses import json_response
from models.errors import UserErasedError, UserNotFoundError
from models.rules.engagement import Engagement
from models.schemas.engagement import EngagementEvent, EngagementTerm, EngagementView
from models.vocabulary import Purpose, Role
from store.events import weights
from store.events.weights import WeighedEvent
from store.users import users

router = APIRouter(route_class=GuardedRoute)


@router.get(
    "/users/{user_id}/engagement",
    tags=["users"],
    response_model=EngagementView,
    responses=problems(UserNotFoundError, UserErasedError),
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("engagement.read")
async def get_engagement(
    user_id: UserIdInPath, connection: InTransaction, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Explain a user's engagement score at this moment. Without the consent `profiling` all is null."""
    now = datetime.now(UTC)
    stored = await users.find(connection, resources.cipher, user_id)
    found = stored.activity.engagement(now, profiling=stored.profile.consents_to(Purpose.PROFILING))
    heaviest = [] if found is None else await weights.heaviest(connection, user_id, now)
    audit.note(fields=EngagementView.model_fields)
    return json_response(_view(user_id, now, found, heaviest))


def _view(
    user_id: str, now: datetime, found: Engagement | None, heaviest: Sequence[WeighedEvent]
) -> EngagementView:
    if found is None:
        return EngagementView(user_id=user_id, as_of=now, engagement_score=None, terms=None, top_events=None)
    return EngagementView(
        user_id=user_id,
        as_of=now,
        engagement_score=found.score,
        terms=[EngagementTerm(**vars(term)) for term in found.terms],
        top_events=[EngagementEvent(**vars(each)) for each in heaviest],
    )
