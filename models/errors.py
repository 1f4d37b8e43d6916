"""The error tree: every failure that a caller can cause or has to handle.

Each class carries what the edge needs to answer (status, code, title), so that one handler renders all of
them and no route holds a `try`. ``code`` is part of the contract: other systems branch on it. No error text
ever holds a value that a caller sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with a request's content: where (RFC 6901 pointer), a stable code, what to do."""

    pointer: str
    code: str
    message: str

    def below(self, prefix: str) -> FieldError:
        """The same error, seen from a document that holds this one at ``prefix``."""
        return FieldError(prefix + self.pointer, self.code, self.message)


class PerennialError(Exception):
    """Base of all expected failures."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}


class UnauthenticatedError(PerennialError):
    """No key, or one that is wrong, mistyped or revoked: the caller isn't told which."""

    status, code, title = 401, "unauthenticated", "A valid API key is required"

    def __init__(self) -> None:
        super().__init__(
            "Send a valid API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
            headers={"WWW-Authenticate": 'Bearer realm="perennial"'},
        )


class ForbiddenError(PerennialError):
    """The key's role is too small for the route."""

    status, code, title = 403, "forbidden", "This key's role may not do that"


class ConsentRequiredError(PerennialError):
    """The person has not consented to the purpose that this would need."""

    status, code, title = 403, "consent_required", "The person's consent is required"


class NotFoundError(PerennialError):
    """Base of what isn't there."""

    status, code, title = 404, "not_found", "Not found"


class UserNotFoundError(NotFoundError):
    """No profile with this id."""

    code, title = "user_not_found", "No such user"

    def __init__(self) -> None:
        super().__init__("No user has this id.")


class WorkflowNotFoundError(NotFoundError):
    """The catalogue has no such workflow."""

    code, title = "workflow_not_found", "No such workflow"

    def __init__(self) -> None:
        super().__init__("The catalogue has no workflow with this id; GET /workflows lists them.")


class AuditEntryNotFoundError(NotFoundError):
    """No row of the audit log with this number."""

    code, title = "audit_entry_not_found", "No such entry"

    def __init__(self) -> None:
        super().__init__("The audit log has no entry with this id, or it has expired.")


class InstanceNotFoundError(NotFoundError):
    """No instance with this id under this workflow."""

    code, title = "instance_not_found", "No such instance"

    def __init__(self) -> None:
        super().__init__("This workflow has no instance with this id.")


class KeyNotFoundError(NotFoundError):
    """No API key with this id."""

    code, title = "key_not_found", "No such API key"

    def __init__(self) -> None:
        super().__init__("No API key has this id.")


class PoisonEventNotFoundError(NotFoundError):
    """No event with this id was set aside."""

    code, title = "poison_event_not_found", "No such poison event"

    def __init__(self) -> None:
        super().__init__("No event was set aside under this id.")


class DataTypeNotFoundError(NotFoundError):
    """No type of data with this name has a retention."""

    code, title = "data_type_not_found", "No such type of data"

    def __init__(self) -> None:
        super().__init__("No type of data has this name; GET /retention lists them.")


class RetentionRunNotFoundError(NotFoundError):
    """No run of the retention with this id."""

    code, title = "retention_run_not_found", "No such run"

    def __init__(self) -> None:
        super().__init__("No run of the retention has this id.")


class DeadLetterNotFoundError(NotFoundError):
    """No dead letter with this id."""

    code, title = "dead_letter_not_found", "No such dead letter"

    def __init__(self) -> None:
        super().__init__("No dead letter has this id.")


class MethodNotAllowedError(PerennialError):
    """The path is there, and takes other methods."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__("This path takes other methods; see Allow.", headers={"Allow": ", ".join(allowed)})


class ConflictError(PerennialError):
    """Base of what contradicts the present state."""

    status, code, title = 409, "conflict", "Conflict"


class UserExistsError(ConflictError):
    """A create for a user who is there already."""

    code, title = "user_exists", "The user exists already"

    def __init__(self) -> None:
        super().__init__("A user with this id exists; change it with PATCH /users/{user_id}.")


class EventIdConflictError(ConflictError):
    """An event id that belongs to an event of another user or type."""

    code, title = "event_id_conflict", "The event id is taken"

    def __init__(self) -> None:
        super().__init__("This event_id belongs to an event of another user or type; ids are never used again.")


class AlreadyFinishedError(ConflictError):
    """A command for an instance that has ended."""

    code, title = "already_finished", "The instance has finished"

    def __init__(self) -> None:
        super().__init__("The instance has ended, so it can't be changed any more.")


class WorkflowDisabledError(ConflictError):
    """An execute of a workflow that an admin has switched off."""

    code, title = "workflow_disabled", "The workflow is disabled"

    def __init__(self) -> None:
        super().__init__("This workflow is disabled; an admin enables it with PATCH /workflows/{workflow_id}.")


class AlreadySettledError(ConflictError):
    """A replay or discard of what has been replayed or discarded."""

    code, title = "already_settled", "It has been settled already"

    def __init__(self) -> None:
        super().__init__("It has been replayed or discarded already.")


class AlreadyReplayingError(ConflictError):
    """A replay or discard of a dead letter whose replay is under way."""

    code, title = "already_replaying", "The replay is under way"

    def __init__(self) -> None:
        super().__init__("The dead letter is being replayed; look at its instance.")


class HistoryGoneError(ConflictError):
    """A replay whose instance Temporal has no history of any more."""

    code, title = "history_gone", "The history has been deleted"

    def __init__(self) -> None:
        super().__init__(
            "Temporal doesn't keep the history of this instance any more, so it can't be carried on; "
            "execute the workflow again, or discard the dead letter."
        )


class StillUnusableError(ConflictError):
    """A replay that failed again; it stays open."""

    code, title = "still_unusable", "The event still can't be used"

    def __init__(self, error_type: str) -> None:
        super().__init__(f"The replay failed with {error_type}; the event stays open.")


class EventGoneError(ConflictError):
    """A replay of an event that retention has deleted."""

    code, title = "event_gone", "The event has been deleted"

    def __init__(self) -> None:
        super().__init__("The event isn't kept any more, so it can only be discarded.")


class UserErasedError(PerennialError):
    """The person's data key has been destroyed."""

    status, code, title = 410, "user_erased", "The user has been erased"

    def __init__(self) -> None:
        super().__init__("This user has been erased; the id stays taken until its tombstone is removed.")


class PreconditionFailedError(PerennialError):
    """`If-Match` names another version than the present one."""

    status, code, title = 412, "precondition_failed", "The resource has changed"

    def __init__(self) -> None:
        super().__init__("The resource has changed since the version in If-Match; read it again.")


class InvalidContentError(PerennialError):
    """Well-formed JSON whose content can't be accepted."""

    status, code, title = 422, "validation_failed", "The content is not valid"

    def __init__(self, errors: Sequence[FieldError], detail: str | None = None) -> None:
        count = len(errors)
        super().__init__(detail or f"{count} {'problem' if count == 1 else 'problems'} in the request.")
        self.errors = list(errors)


class UserUnknownError(InvalidContentError):
    """A reference to a user who isn't there."""

    code, title = "user_unknown", "The user is unknown"

    def __init__(self, pointer: str = "/user_id") -> None:
        super().__init__([FieldError(pointer, "user_unknown", "No user has this id.")], "No user has this id.")


class IdempotencyKeyReusedError(PerennialError):
    """The same `Idempotency-Key` with another request."""

    status, code, title = 422, "idempotency_key_reused", "The Idempotency-Key was used for another request"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key belongs to a request with another content; use a new one.")


class BadRequestError(PerennialError):
    """A request that can't be read at all."""

    status, code, title = 400, "bad_request", "The request can't be read"


class MalformedJsonError(BadRequestError):
    """The body isn't JSON."""

    code, title = "malformed_json", "The body is not valid JSON"


class InvalidIdempotencyKeyError(BadRequestError):
    """An `Idempotency-Key` outside its form."""

    code, title = "invalid_idempotency_key", "The Idempotency-Key is malformed"

    def __init__(self) -> None:
        super().__init__("Idempotency-Key takes 1 to 255 printable ASCII characters.")


class BodyTooLargeError(PerennialError):
    """The body exceeds the limit."""

    status, code, title = 413, "body_too_large", "The body is too large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body may be {limit} bytes at most; send smaller batches.")


class UnsupportedMediaTypeError(PerennialError):
    """The body is of another type than the route takes."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class TooManyRequestsError(PerennialError):
    """The key's requests for this minute are spent."""

    status, code, title = 429, "rate_limited", "Too many requests"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(
            "This key's requests for the present minute are spent; try again after Retry-After seconds.",
            headers={"Retry-After": str(retry_after_seconds)},
        )


class UnavailableError(PerennialError):
    """Base of dependencies that don't answer; nothing was done, a retry is safe."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str, retry_after_seconds: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})


class TemporalUnavailableError(UnavailableError):
    """Temporal doesn't answer."""

    code, title = "temporal_unavailable", "Temporal can't be reached"

    def __init__(self) -> None:
        super().__init__("Temporal can't be reached at present; try again.")


class WorkerUnavailableError(UnavailableError):
    """No worker took up a command in time."""

    code, title = "worker_unavailable", "No worker answered"

    def __init__(self) -> None:
        super().__init__("No worker took up the command in time; it may still be carried out. Look again.")


class PartitionDetachingError(UnavailableError):
    """An event's month is being taken out of the log, although the event is inside the retention: the period was
    lengthened a moment ago."""

    code, title = "month_on_its_way_out", "The event's month is being deleted"

    def __init__(self) -> None:
        super().__init__("The events of this month are being deleted; the retention was changed. Try again.", 5)


class StoreUnavailableError(UnavailableError):
    """Postgres doesn't answer."""

    code, title = "store_unavailable", "The database can't be reached"

    def __init__(self) -> None:
        super().__init__("The database can't be reached at present; try again.")
