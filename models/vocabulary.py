"""The closed vocabularies of the domain, as they stand in the contract."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What an API key may do."""

    ADMIN = "admin"
    OPERATOR = "operator"
    ANALYST = "analyst"
    INTEGRATOR = "integrator"


class AccountStatus(StrEnum):
    """The state of the account itself."""

    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class LifecycleStage(StrEnum):
    """Where a customer stands."""

    PROSPECT = "prospect"
    ONBOARDING = "onboarding"
    ACTIVE = "active"
    AT_RISK = "at_risk"
    DORMANT = "dormant"
    CHURNED = "churned"
    REACTIVATED = "reactivated"


class Purpose(StrEnum):
    """What a person may consent to; everything is denied by default."""

    DATA_COLLECTION = "data_collection"
    PROFILING = "profiling"
    MARKETING = "marketing"
    THIRD_PARTY_SHARING = "third_party_sharing"


class InstanceStatus(StrEnum):
    """Where an instance of a lifecycle workflow stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether the instance has ended."""
        return self not in (InstanceStatus.RUNNING, InstanceStatus.PAUSED)


class DeadLetterStatus(StrEnum):
    """Where a dead letter stands.

    `open`: somebody has to decide. `replaying`: its instance is on its way from the failed step on. `replayed`:
    the step has been done, or the journey came to its end. `discarded`: it is not to be carried on.
    """

    OPEN = "open"
    REPLAYING = "replaying"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class MessageStatus(StrEnum):
    """Where a message of the outbox stands.

    `outbox`: written, no transport is configured. `sending`: on the wire, outcome not yet known.
    `unconfirmed`: the process died or the connection broke while the transport had the message, so that
    whether it arrived can't be known (ADR 0007). `withdrawn`: its instance was cancelled before it left.
    `suppressed`: at the moment of sending the person's consent or the frequency cap spoke against it.
    """

    OUTBOX = "outbox"
    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    UNCONFIRMED = "unconfirmed"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    SUPPRESSED = "suppressed"


class Channel(StrEnum):
    """How a message reaches the customer."""

    EMAIL = "email"
    WEBHOOK = "webhook"
    """Signed and posted to the endpoint that the installation names: a provider of push, text or chat messages."""


class Suppression(StrEnum):
    """Why a message wasn't sent."""

    USER_ERASED = "user_erased"
    CONSENT_REQUIRED = "consent_required"
    FREQUENCY_CAP = "frequency_cap"
