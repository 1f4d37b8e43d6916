"""The lifecycle stages' transitions by rule. `docs/lifecycle.md` draws :data:`TRANSITIONS`.

Callers and workflows may set any stage. It holds until the next crossing or activity after it. A crossing is the
time at which a person has had no session for one of :class:`Periods`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from models.rules.folding import PURCHASE, WORKFLOW_SESSION, LogEvent
from models.rules.visits import SESSION_TIMEOUT
from models.vocabulary import LifecycleStage

STAGE_CHANGED = "lifecycle.stage_changed"
SIGNUP = "user.signup"
SESSIONS_TO_ACTIVE = 3
_DAY = timedelta(days=1)


class StageCause(StrEnum):
    """Why a stage has changed."""

    ACTIVITY = "activity"
    INACTIVITY = "inactivity"
    CALLER = "caller"
    WORKFLOW = "workflow"


class Condition(StrEnum):
    """What a transition needs."""

    PURCHASE = "a purchase"
    THIRD_SESSION = "the third session"
    SIGNUP = "a sign-up"
    RECENT_ACTIVITY = "an activity within the at-risk period"
    DAY_LATER = "a session a day or more after the return"
    AT_RISK = "no session for the at-risk period"
    DORMANT = "no session for the dormant period"
    CHURNED = "no session for the churned period"


@dataclass(frozen=True)
class Transition:
    source: LifecycleStage
    target: LifecycleStage
    cause: StageCause
    condition: Condition


_S, _A, _I = LifecycleStage, StageCause.ACTIVITY, StageCause.INACTIVITY
TRANSITIONS: Sequence[Transition] = (
    Transition(_S.PROSPECT, _S.ACTIVE, _A, Condition.PURCHASE),
    Transition(_S.PROSPECT, _S.ACTIVE, _A, Condition.THIRD_SESSION),
    Transition(_S.PROSPECT, _S.ONBOARDING, _A, Condition.SIGNUP),
    Transition(_S.ONBOARDING, _S.ACTIVE, _A, Condition.PURCHASE),
    Transition(_S.ONBOARDING, _S.ACTIVE, _A, Condition.THIRD_SESSION),
    Transition(_S.AT_RISK, _S.ACTIVE, _A, Condition.RECENT_ACTIVITY),
    Transition(_S.DORMANT, _S.REACTIVATED, _A, Condition.RECENT_ACTIVITY),
    Transition(_S.CHURNED, _S.REACTIVATED, _A, Condition.RECENT_ACTIVITY),
    Transition(_S.REACTIVATED, _S.ACTIVE, _A, Condition.DAY_LATER),
    Transition(_S.ONBOARDING, _S.AT_RISK, _I, Condition.AT_RISK),
    Transition(_S.ACTIVE, _S.AT_RISK, _I, Condition.AT_RISK),
    Transition(_S.REACTIVATED, _S.AT_RISK, _I, Condition.AT_RISK),
    Transition(_S.ONBOARDING, _S.DORMANT, _I, Condition.DORMANT),
    Transition(_S.ACTIVE, _S.DORMANT, _I, Condition.DORMANT),
    Transition(_S.REACTIVATED, _S.DORMANT, _I, Condition.DORMANT),
    Transition(_S.AT_RISK, _S.DORMANT, _I, Condition.DORMANT),
    Transition(_S.ONBOARDING, _S.CHURNED, _I, Condition.CHURNED),
    Transition(_S.ACTIVE, _S.CHURNED, _I, Condition.CHURNED),
    Transition(_S.REACTIVATED, _S.CHURNED, _I, Condition.CHURNED),
    Transition(_S.AT_RISK, _S.CHURNED, _I, Condition.CHURNED),
    Transition(_S.DORMANT, _S.CHURNED, _I, Condition.CHURNED),
)
"""Of several that apply, the first one by activity, and the last crossing that has passed."""
MOVED_BY_ACTIVITY = frozenset(each.source for each in TRANSITIONS if each.cause is _A)
COUNTING_SESSIONS = frozenset(each.source for each in TRANSITIONS if each.condition is Condition.THIRD_SESSION)
_BY_INACTIVITY = {(each.source, each.condition): each for each in TRANSITIONS if each.cause is _I}


@dataclass(frozen=True)
class Periods:
    """Times without an event: within a session id, and since the last event of the last session."""

    session_timeout: timedelta = SESSION_TIMEOUT
    """Later events of the same session id are a new session."""
    at_risk_after: timedelta = timedelta(days=14)
    dormant_after: timedelta = timedelta(days=30)
    churned_after: timedelta = timedelta(days=90)

    def crossings(self, last_session: datetime) -> list[tuple[Condition, datetime]]:
        return [
            (Condition.AT_RISK, last_session + self.at_risk_after),
            (Condition.DORMANT, last_session + self.dormant_after),
            (Condition.CHURNED, last_session + self.churned_after),
        ]

    def next_crossing(self, last_session: datetime, now: datetime) -> datetime | None:
        return next((at for _, at in self.crossings(last_session) if at > now), None)


DEFAULT_PERIODS = Periods()


@dataclass(frozen=True, slots=True)
class Standing:
    """A person's stage, as the rules need it."""

    stage: LifecycleStage
    pinned: bool
    changed_at: datetime
    """The last change by a caller, a workflow or an activity; at first the creation."""
    created_at: datetime
    session_count: int = 0

    @property
    def held_since(self) -> datetime | None:
        """Only later activity and crossings count. None for the stage of the creation: events may be older."""
        return self.changed_at if self.changed_at > self.created_at else None


@dataclass(slots=True)
class Signs:
    """The activity of one person in a batch of events."""

    times: list[datetime] = field(default_factory=list)
    """Of all events that count for a session."""
    signups: list[datetime] = field(default_factory=list)
    purchases: list[datetime] = field(default_factory=list)
    historical: bool = True
    """Whether all of them are historical."""


@dataclass(frozen=True, slots=True)
class Move:
    source: LifecycleStage
    target: LifecycleStage
    at: datetime
    """The time of the activity, or of the crossing."""


def signs_of(events: Iterable[LogEvent]) -> Mapping[str, Signs]:
    """By user. Events of workflows, and those stored without consent, are no activity."""
    found: dict[str, Signs] = {}
    for event in events:
        if not event.consented or event.session_id.startswith(WORKFLOW_SESSION):
            continue
        signs = found.setdefault(event.user_id, Signs())
        signs.times.append(event.timestamp)
        signs.historical = signs.historical and event.historical
        if event.event_type == SIGNUP:
            signs.signups.append(event.timestamp)
        elif event.event_type == PURCHASE:
            signs.purchases.append(event.timestamp)
    return found


def by_activity(standing: Standing, signs: Signs, now: datetime, periods: Periods) -> list[Move]:
    """The moves that activity causes, in order; a return and a session a day later are two."""
    moves: list[Move] = []
    stage, changed_at = standing.stage, standing.changed_at
    while not standing.pinned:
        times = _times(standing, changed_at, signs, now, periods)
        move = next(
            (
                Move(stage, each.target, times[each.condition])
                for each in TRANSITIONS
                if each.source is stage and each.condition in times
            ),
            None,
        )
        if move is None:
            break
        moves.append(move)
        stage, changed_at = move.target, move.at
    return moves


def _times(
    standing: Standing, changed_at: datetime, signs: Signs, now: datetime, periods: Periods
) -> dict[Condition, datetime]:
    """The conditions of activity that hold, each with the time since when."""
    held = standing.held_since

    def counted(times: Iterable[datetime]) -> list[datetime]:
        return sorted(min(each, now) for each in times if held is None or each > held)

    times = counted(signs.times)
    enough = standing.session_count >= SESSIONS_TO_ACTIVE
    found = {
        Condition.PURCHASE: next(iter(counted(signs.purchases)), None),
        Condition.SIGNUP: next(iter(counted(signs.signups)), None),
        Condition.THIRD_SESSION: times[-1] if times and enough else None,
        Condition.RECENT_ACTIVITY: next((each for each in times if each > now - periods.at_risk_after), None),
        Condition.DAY_LATER: next((each for each in times if each >= changed_at + _DAY), None),
    }
    return {condition: at for condition, at in found.items() if at is not None}


def by_inactivity(standing: Standing, last_session: datetime, now: datetime, periods: Periods) -> Move | None:
    """The move of the last crossing that has passed after the stage was set; a late sweep skips the others."""
    held = standing.held_since
    crossings = periods.crossings(last_session)
    passed = [(each, at) for each, at in crossings if at <= now and (held is None or held < at)]
    if standing.pinned or not passed:
        return None
    condition, at = passed[-1]
    found = _BY_INACTIVITY.get((standing.stage, condition))
    return None if found is None else Move(found.source, found.target, at)
