"""One row for each route: the roles that may call it, and the status of its answers.

The columns are: the allowed roles (admins always are), the status if the resource exists, the status if it doesn't
(None if the path names no resource), and the body to send. ``people`` means that an admin's answer contains
personal data, so that the test can check that the other roles' answers don't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.vocabulary import Role
from tests.support.builders import user
from tests.support.events import event

ADMIN = frozenset({Role.ADMIN})
READERS = ADMIN | {Role.OPERATOR, Role.ANALYST}
OPERATORS = ADMIN | {Role.OPERATOR}
WRITERS = ADMIN | {Role.INTEGRATOR}
EVERY_ROLE = frozenset(Role)
PUBLIC: frozenset[Role] = frozenset()

Body = Callable[[Role], Any]


@dataclass(frozen=True)
class Row:
    roles: frozenset[Role]
    existing: int
    missing: int | None = None
    body: Body | None = None
    people: bool = False


def sends(document: Any) -> Body:
    """The same body for every role."""
    return lambda _: document


PARAMETERS: Mapping[str, tuple[str, str]] = {
    "event_id": ("e-1", "e-nothing"),
    "instance_id": ("i-1", "i-nothing"),
    "bulk_id": ("b-1", "b-nothing"),
    "dead_letter_id": ("d-1", "d-nothing"),
    "poison_id": ("p-1", "p-nothing"),
    "key_id": ("key_1", "key_nothing"),
    "audit_id": ("999999999", "0"),
    "run_id": ("run-1", "run-nothing"),
    "data_type": ("events", "nothing"),
    "user_id": ("u-1", "u-nobody"),
    "workflow_id": ("onboarding", "nothing"),
    "purpose": ("marketing", "marketing"),
    "event_type": ("lesson.start", "lesson.nothing"),
}
"""An existing and a missing value of each path parameter. Of several in one path, the first here is missing."""

GRANT = {"granted": True}

TABLE: Mapping[str, Row] = {
    "GET /users": Row(READERS, 200, people=True),
    "POST /users": Row(WRITERS, 201, body=lambda role: user(f"u-of-{role}")),
    "POST /users/batch": Row(WRITERS, 200, body=lambda role: {"users": [user(f"u-with-{role}")]}),
    "POST /users/search": Row(OPERATORS, 200, body=sends({"email": "nobody@example.com"})),
    "GET /users/{user_id}": Row(READERS, 200, 404, people=True),
    "GET /users/{user_id}/export": Row(READERS, 200, 404, people=True),
    "PATCH /users/{user_id}": Row(WRITERS, 200, 404, body=sends({"lifecycle_stage_pinned": True})),
    "GET /users/{user_id}/consents": Row(READERS, 200, 404),
    "GET /users/{user_id}/consents/history": Row(READERS, 200, 404),
    "PUT /users/{user_id}/consents/{purpose}": Row(WRITERS, 200, 404, body=sends(GRANT)),
    "DELETE /users/{user_id}/consents/{purpose}": Row(WRITERS, 200, 404),
    "POST /consents/batch": Row(
        WRITERS, 200, body=sends({"consents": [GRANT | {"user_id": "u-1", "purpose": "marketing"}]})
    ),
    "GET /users/{user_id}/events": Row(READERS, 200, 404, people=True),
    "GET /users/{user_id}/decisions": Row(READERS, 200, 404),
    "GET /events/{event_id}": Row(READERS, 200, 404, people=True),
    "GET /users/{user_id}/features": Row(READERS, 200, 404),
    "GET /users/{user_id}/engagement": Row(READERS, 200, 404),
    "GET /users/{user_id}/transactions": Row(READERS, 200, 404),
    "POST /events": Row(WRITERS, 202, body=lambda role: event(f"e-of-{role}")),
    "POST /events/batch": Row(WRITERS, 202, body=lambda role: {"events": [event(f"e-with-{role}")]}),
    "GET /events/types": Row(EVERY_ROLE, 200),
    "GET /events/types/{event_type}": Row(EVERY_ROLE, 200, 404),
    "GET /events/types/{event_type}/versions": Row(READERS, 200, 404),
    "PUT /events/types/{event_type}": Row(ADMIN, 200, body=sends({"schema": {"type": "object"}})),
    "GET /poison-events": Row(ADMIN, 200),
    "POST /poison-events/{poison_id}/replay": Row(ADMIN, 200, 404),
    "POST /poison-events/{poison_id}/discard": Row(ADMIN, 200, 404),
    "GET /workflows": Row(EVERY_ROLE, 200),
    "GET /workflows/{workflow_id}": Row(EVERY_ROLE, 200, 404),
    "PATCH /workflows/{workflow_id}": Row(ADMIN, 200, 404, body=sends({"max_attempts": 3})),
    "POST /workflows/{workflow_id}/execute": Row(
        OPERATORS, 202, 404, body=sends({"user_id": "u-1", "again": True})
    ),
    "POST /workflows/{workflow_id}/execute/batch": Row(OPERATORS, 202, 404, body=sends({"user_ids": ["u-1"]})),
    "GET /workflows/{workflow_id}/bulks/{bulk_id}": Row(READERS, 200, 404),
    # Its only instance has ended.
    "DELETE /workflows/{workflow_id}/bulks/{bulk_id}": Row(OPERATORS, 409, 404),
    "GET /workflows/{workflow_id}/instances": Row(READERS, 200, 404, people=True),
    "GET /workflows/{workflow_id}/instances/{instance_id}": Row(READERS, 200, 404, people=True),
    # The instance has ended. Commands to running ones have tests of their own.
    "DELETE /workflows/{workflow_id}/instances/{instance_id}": Row(OPERATORS, 409, 404),
    "POST /workflows/{workflow_id}/instances/{instance_id}/pause": Row(OPERATORS, 409, 404),
    "POST /workflows/{workflow_id}/instances/{instance_id}/resume": Row(OPERATORS, 409, 404),
    "GET /users/{user_id}/instances": Row(READERS, 200, 404, people=True),
    "GET /dead-letters": Row(READERS, 200, people=True),
    "GET /dead-letters/{dead_letter_id}": Row(READERS, 200, 404, people=True),
    "POST /dead-letters/replay": Row(OPERATORS, 202, body=sends({"user_id": "u-1"})),
    # The dead letter has been replayed. Open ones have tests of their own.
    "POST /dead-letters/{dead_letter_id}/replay": Row(OPERATORS, 409, 404),
    "POST /dead-letters/{dead_letter_id}/discard": Row(OPERATORS, 409, 404),
    "POST /codec/decode": Row(ADMIN, 200, body=sends({"payloads": []})),
    "GET /retention": Row(ADMIN, 200),
    "GET /retention/{data_type}": Row(ADMIN, 200, 404),
    "PUT /retention/{data_type}": Row(ADMIN, 200, 404, body=sends({"days": 365})),
    "POST /retention/run": Row(ADMIN, 200, body=sends({"dry_run": True})),
    "GET /retention/runs": Row(ADMIN, 200),
    "GET /retention/runs/{run_id}": Row(ADMIN, 200, 404),
    "GET /audit": Row(ADMIN, 200),
    "GET /audit/head": Row(ADMIN, 200),
    "GET /audit/{audit_id}": Row(ADMIN, 200, 404),
    "GET /keys": Row(ADMIN, 200),
    "POST /keys": Row(ADMIN, 201, body=sends({"name": "another", "role": "analyst"})),
    "PATCH /keys/{key_id}": Row(ADMIN, 200, 404, body=sends({"rate_limit": 50})),
    "POST /keys/{key_id}/rotate": Row(ADMIN, 200, 404),
    "DELETE /keys/{key_id}": Row(ADMIN, 204, 404),
    "GET /health/live": Row(PUBLIC, 200),
    "GET /health/ready": Row(PUBLIC, 200),
}
