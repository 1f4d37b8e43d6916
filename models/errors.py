"""The errors that the API returns.

Each class has its HTTP status, code and title, so one handler renders all of them and no route has a `try`.
``code`` is part of the contract: clients branch on it. No text repeats a value that a caller sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldError:
    """One error in a request's content: an RFC 6901 pointer, a stable code, and the correction."""

    pointer: str
    code: str
    message: str

    def with_prefix(self, prefix: str) -> FieldError:
        """The same error, with ``prefix`` before its pointer."""
        return FieldError(prefix + self.pointer, self.code, self.message)


class PerennialError(Exception):
    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    detail: str = ""
    """The text of errors that are raised without one."""

    def __init__(self, detail: str | None = None, *, headers: dict[str, str] | None = None) -> None:
        self.detail = self.detail if detail is None else detail
        super().__init__(self.detail)
        self.headers = headers or {}


class DataUnreadableError(PerennialError):
    """Stored data or a data key is damaged, or the key file lacks a key. Other people's data is not affected."""

    code, title = "data_unreadable", "The data can't be decrypted"
    detail = "Stored data of this request can't be decrypted; an operator must restore it or its key."


class UnauthenticatedError(PerennialError):
    """No key, or a wrong or revoked one. The response doesn't say which."""

    status, code, title = 401, "unauthenticated", "A valid API key is required"

    def __init__(self) -> None:
        super().__init__(
            "Send a valid API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
            headers={"WWW-Authenticate": 'Bearer realm="perennial"'},
        )


class ForbiddenError(PerennialError):
    status, code, title = 403, "forbidden", "This key's role may not do that"


class ConsentRequiredError(PerennialError):
    status, code, title = 403, "consent_required", "The person's consent is required"


class NotFoundError(PerennialError):
    status, code, title = 404, "not_found", "Not found"


class UserNotFoundError(NotFoundError):
    code, title = "user_not_found", "No such user"
    detail = "No user has this id."


class WorkflowNotFoundError(NotFoundError):
    code, title = "workflow_not_found", "No such workflow"
    detail = "The catalogue has no workflow with this id; GET /workflows lists them."


class AuditEntryNotFoundError(NotFoundError):
    code, title = "audit_entry_not_found", "No such entry"
    detail = "The audit log has no entry with this id, or it has expired."


class InstanceNotFoundError(NotFoundError):
    code, title = "instance_not_found", "No such instance"
    detail = "This workflow has no instance with this id."


class KeyNotFoundError(NotFoundError):
    code, title = "key_not_found", "No such API key"
    detail = "No API key has this id."


class BulkNotFoundError(NotFoundError):
    code, title = "bulk_not_found", "No such bulk"
    detail = "No instance of this workflow belongs to a bulk with this id."


class PoisonEventNotFoundError(NotFoundError):
    code, title = "poison_event_not_found", "No such poison event"
    detail = "No poison event has this id; GET /poison-events lists them."


class EventNotFoundError(NotFoundError):
    code, title = "event_not_found", "No such event"
    detail = "No event has this id, or it has expired."


class EventTypeNotFoundError(NotFoundError):
    code, title = "event_type_not_found", "No such event type"
    detail = "No declared event type has this name; GET /events/types lists them."


class DataTypeNotFoundError(NotFoundError):
    code, title = "data_type_not_found", "No such type of data"
    detail = "No type of data has this name; GET /retention lists them."


class RetentionRunNotFoundError(NotFoundError):
    code, title = "retention_run_not_found", "No such run"
    detail = "No retention run has this id."


class DeadLetterNotFoundError(NotFoundError):
    code, title = "dead_letter_not_found", "No such dead letter"
    detail = "No dead letter has this id."


class MethodNotAllowedError(PerennialError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__("Send one of the methods in the header Allow.", headers={"Allow": ", ".join(allowed)})


class ConflictError(PerennialError):
    status, code, title = 409, "conflict", "Conflict"


class UserExistsError(ConflictError):
    code, title = "user_exists", "The user exists already"
    detail = "A user with this id exists; change it with PATCH /users/{user_id}."


class EventIdConflictError(ConflictError):
    code, title = "event_id_conflict", "The event id is taken"
    detail = "This event_id belongs to an event of another user or type; send a new id."


class LastAdminKeyError(ConflictError):
    code, title = "last_admin_key", "This is the last admin key"
    detail = "Without an admin key nobody could manage keys; create another one first."


class KeyRevokedError(ConflictError):
    code, title = "key_revoked", "The API key is revoked"
    detail = "A revoked key can't be changed; create another one."


class AlreadyFinishedError(ConflictError):
    code, title = "already_finished", "The instance has finished"
    detail = "The instance has ended and can't be changed."


class AlreadyRunningError(ConflictError):
    code, title = "already_running", "The workflow runs already"

    def __init__(self, location: str | None = None, *, keyed: bool = False) -> None:
        once = "This workflow runs once for a user, and runs now; its instance is in the header Location. "
        again = "Send 'again': true to run it again, or 'Prefer: return=existing'."
        at_a_time = "An instance of this workflow with the same key runs for the user. "
        wait = "Wait for its end, cancel it, or send 'Prefer: return=existing'."
        super().__init__(
            at_a_time + wait if keyed else once + again, headers={"Location": location} if location else None
        )


class AlreadyRunError(ConflictError):
    code, title = "already_run", "The workflow has run already"

    def __init__(self, location: str | None = None) -> None:
        super().__init__(
            "This workflow runs once for a user, and has run; Location names its instance until retention deletes "
            "it. Send 'again': true to run it again, or 'Prefer: return=existing'.",
            headers={"Location": location} if location else None,
        )


class WorkflowDisabledError(ConflictError):
    code, title = "workflow_disabled", "The workflow is disabled"
    detail = "This workflow is disabled; an admin enables it with PATCH /workflows/{workflow_id}."


class AccountClosedError(ConflictError):
    code, title = "account_closed", "The account is closed"
    detail = "This user's account is closed, so no workflow runs for it."


class AccountSuspendedError(ConflictError):
    code, title = "account_suspended", "The account is suspended"
    detail = "This user's account is suspended, so no marketing workflow runs for it."


class AlreadySettledError(ConflictError):
    """The dead letter or poison event has been replayed or discarded."""

    code, title = "already_settled", "Already replayed or discarded"
    detail = "This has already been replayed or discarded."


class AlreadyReplayingError(ConflictError):
    code, title = "already_replaying", "The replay is under way"
    detail = "The dead letter is being replayed; read its instance for the result."


class StillUnusableError(ConflictError):
    code, title = "still_unusable", "The event still can't be used"

    def __init__(self, error_type: str) -> None:
        super().__init__(f"The replay failed with {error_type}; the event stays open.")


class EventGoneError(ConflictError):
    code, title = "event_gone", "The event has been deleted"
    detail = "Retention has deleted the event; discard the poison event."


class UserErasedError(PerennialError):
    """The data key of the user has been destroyed."""

    status, code, title = 410, "user_erased", "The user has been erased"
    detail = "This user has been erased; the id can't be used until its tombstone is removed."


class PreconditionFailedError(PerennialError):
    status, code, title = 412, "precondition_failed", "The resource has changed"
    detail = "The resource has changed since the version in If-Match; read it again."


class InvalidContentError(PerennialError):
    status, code, title = 422, "validation_failed", "The content is not valid"

    def __init__(self, errors: Sequence[FieldError], detail: str | None = None, count: int | None = None) -> None:
        count = len(errors) if count is None else count
        super().__init__(detail or f"{count} {'problem' if count == 1 else 'problems'} in the request.")
        self.errors = list(errors)


class ParameterMissingError(InvalidContentError):
    """A workflow needs the values of these parameters, although they have defaults."""

    def __init__(self, names: Sequence[str], why: str) -> None:
        super().__init__(
            [FieldError(f"/parameters/{name}", "required", f"Send a value: {why}.") for name in names]
        )


class UserUnknownError(InvalidContentError):
    """The request refers to a user that doesn't exist. The path's own user is :class:`UserNotFoundError`."""

    code, title = "user_unknown", "The user is unknown"

    def __init__(self, pointer: str = "/user_id") -> None:
        super().__init__([FieldError(pointer, "user_unknown", "No user has this id.")], "No user has this id.")


class IdempotencyKeyReusedError(PerennialError):
    status, code, title = 422, "idempotency_key_reused", "The Idempotency-Key was used for another request"
    detail = "This Idempotency-Key was sent with different content; send a new key."


class BadRequestError(PerennialError):
    status, code, title = 400, "bad_request", "The request can't be read"


class MalformedJsonError(BadRequestError):
    code, title = "malformed_json", "The body is not valid JSON"


class InvalidIdempotencyKeyError(BadRequestError):
    code, title = "invalid_idempotency_key", "The Idempotency-Key is malformed"
    detail = "Idempotency-Key must have 1 to 255 printable ASCII characters."


class RequestTimeoutError(PerennialError):
    status, code, title = 408, "request_timeout", "The request took too long"
    detail = "Send the headers at once, and the body without long pauses."


class AddressTooLongError(PerennialError):
    status, code, title = 414, "address_too_long", "The address is too long"
    detail = "Send path and query in at most 8,192 bytes."


class HeadersTooLargeError(PerennialError):
    status, code, title = 431, "headers_too_large", "The headers are too large"
    detail = "Send at most 100 headers and 65,536 bytes of them."


class TooManyConnectionsError(PerennialError):
    status, code, title = 503, "too_many_connections", "The process has too many connections"

    def __init__(self) -> None:
        super().__init__("Try again soon, or reuse open connections.", headers={"Retry-After": "1"})


class BodyTooLargeError(PerennialError):
    status, code, title = 413, "body_too_large", "The body is too large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body must have at most {limit} bytes; send smaller batches.")


class UnsupportedMediaTypeError(PerennialError):
    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class TooManyRequestsError(PerennialError):
    status, code, title = 429, "rate_limited", "Too many requests"

    def __init__(self, retry_after_seconds: int, what: str = "This key has reached its limit of requests") -> None:
        super().__init__(
            f"{what} a minute; try again after Retry-After seconds.",
            headers={"Retry-After": str(retry_after_seconds)},
        )


class UnavailableError(PerennialError):
    """A dependency doesn't respond. Nothing was changed unless a subclass says otherwise, so a retry is safe."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str | None = None, retry_after_seconds: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})


class TemporalUnavailableError(UnavailableError):
    code, title = "temporal_unavailable", "Temporal can't be reached"
    detail = "Temporal can't be reached at present; try again."


class WorkerUnavailableError(UnavailableError):
    """No worker accepted the command in time. Temporal may still deliver it."""

    code, title = "worker_unavailable", "No worker answered"
    detail = "No worker accepted the command in time; it may still run. Read the instance again."


class PartitionDetachingError(UnavailableError):
    """The event's partition is being detached, although an extended retention period now includes the event."""

    code, title = "month_on_its_way_out", "The event's month is being deleted"

    def __init__(self) -> None:
        super().__init__("The events of this month are being deleted; the period has changed. Try again.", 5)


class StoreUnavailableError(UnavailableError):
    code, title = "store_unavailable", "The database can't be reached"
    detail = "The database can't be reached at present; try again."
