"""Enumerations of the domain. Their values are part of the contract."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Role(StrEnum):
    ADMIN = "admin"
    OPERATOR = "operator"
    ANALYST = "analyst"
    INTEGRATOR = "integrator"


def widest(roles: Collection[Role]) -> Role:
    """Of a key's roles the one that sees most of people: masks follow it. Needs at least one."""
    return min(roles, key=list(Role).index)


class AccountStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class LifecycleStage(StrEnum):
    PROSPECT = "prospect"
    ONBOARDING = "onboarding"
    ACTIVE = "active"
    AT_RISK = "at_risk"
    DORMANT = "dormant"
    CHURNED = "churned"
    REACTIVATED = "reactivated"


class Purpose(StrEnum):
    """A purpose that needs a person's consent. Without a consent it is denied."""

    DATA_COLLECTION = "data_collection"
    PROFILING = "profiling"
    MARKETING = "marketing"
    THIRD_PARTY_SHARING = "third_party_sharing"


class Basis(StrEnum):
    """Why the events of a type may be stored.

    Events without the consent `data_collection` serve the account's transactions and service workflows alone.
    """

    CONSENT = "consent"
    """Only with the person's consent `data_collection`."""
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"


class InstanceStatus(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self not in (InstanceStatus.RUNNING, InstanceStatus.PAUSED)


class ProblemKind(StrEnum):
    """Why an instance that should run doesn't go on."""

    INCOMPATIBLE_DEPLOY = "incompatible_deploy"
    """Its workflow tasks fail: the deployed code doesn't fit its history."""
    NO_WORKER = "no_worker"
    """No worker polls its task queue."""
    HISTORY_LOST = "history_lost"
    """Temporal has no history of it."""


class DeadLetterStatus(StrEnum):
    OPEN = "open"
    """An operator has to replay or discard it."""
    REPLAYING = "replaying"
    """The instance runs again from the failed step."""
    REPLAYED = "replayed"
    """The step has completed, or the instance has."""
    DISCARDED = "discarded"


class MessageStatus(StrEnum):
    """The state of a message to a customer."""

    OUTBOX = "outbox"
    """Stored; no transport is configured."""
    PENDING = "pending"
    SENDING = "sending"
    """The transport has the message and has not answered yet."""
    SENT = "sent"
    UNCONFIRMED = "unconfirmed"
    """The worker died or the connection broke during `sending`: delivery is unknown (ADR 0007)."""
    REFUSED = "refused"
    """The transport rejected the message for good."""
    WITHDRAWN = "withdrawn"
    """The instance was cancelled before the message was sent."""
    SUPPRESSED = "suppressed"
    """The send gate stopped the message, for one of the reasons of :class:`Suppression`."""


SENT_OR_MAYBE = (MessageStatus.OUTBOX, MessageStatus.SENDING, MessageStatus.SENT, MessageStatus.UNCONFIRMED)
"""The statuses of messages that the send gate let pass, and that the customer may have."""


class Channel(StrEnum):
    EMAIL = "email"
    WEBHOOK = "webhook"
    """A signed POST to the installation's endpoint, such as a provider of push, text or chat messages."""


class WaitCondition(StrEnum):
    """A state that must hold for an event to count."""

    CART_EMPTY = "cart_empty"
    """The person's cart is empty (:mod:`models.rules.carts`)."""


class NotStarted(StrEnum):
    """Why an event that matches a workflow's trigger started no instance."""

    TOO_OLD = "too_old"
    CONSENT_REQUIRED = "consent_required"
    DISABLED = "disabled"
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_SUSPENDED = "account_suspended"
    """Only for marketing."""
    WINDOW_USED = "window_used"
    """The workflow has another instance for the user within `once_per`, or at all if it runs once."""
    ALREADY_RUNNING = "already_running"
    """An instance with the same key runs."""
    PARAMETER_MISSING = "parameter_missing"
    """The event lacks a property from which a parameter of an exit or of the key takes its value."""


class Suppression(StrEnum):
    USER_ERASED = "user_erased"
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_SUSPENDED = "account_suspended"
    """Only for marketing."""
    CONSENT_REQUIRED = "consent_required"
    FREQUENCY_CAP = "frequency_cap"
