"""Who may call what, and what comes back where the thing is there and where it isn't: one row for each route.

The columns are: the roles that may (admins always may), the status where everything named exists, the status where
it doesn't (None where a route names nothing that could be missing), and the body that is sent. ``people`` says
that an admin's answer shows people, so that the walk can see that the others' doesn't.
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
    """What a route does for whom."""

    roles: frozenset[Role]
    existing: int
    missing: int | None = None
    body: Body | None = None
    people: bool = False


def sends(document: Any) -> Body:
    """A body that is the same for every role."""
    return lambda _: document


PARAMETERS: Mapping[str, tuple[str, str]] = {
    "instance_id": ("i-1", "i-nothing"),
    "dead_letter_id": ("d-1", "d-nothing"),
    "poison_id": ("p-1", "p-nothing"),
    "key_id": ("key_1", "key_nothing"),
    "audit_id": ("999999999", "0"),
    "run_id": ("run-1", "run-nothing"),
    "data_type": ("events", "nothing"),
    "user_id": ("u-1", "u-nobody"),
    "workflow_id": ("onboarding", "nothing"),
    "purpose": ("marketing", "marketing"),
    "event_type": ("lesson.finish", "lesson.finish"),
}
"""By name in a path: what exists, and what doesn't. Of several in one path the first here is the missing one."""

GRANT = {"granted": True}

TABLE: Mapping[str, Row] = {
    "GET /users": Row(READERS, 200, people=True),
    "POST /users": Row(WRITERS, 201, body=lambda role: user(f"u-of-{role}")),
    "POST /users/batch": Row(WRITERS, 200, body=lambda role: {"users": [user(f"u-with-{role}")]}),
    "POST /users/search": Row(ADMIN, 200, body=sends({"email": "nobody@example.com"})),
    "GET /users/{user_id}": Row(READERS, 200, 404, people=True),
    "GET /users/{user_id}/export": Row(READERS, 200, 404, people=True),
    "PATCH /users/{user_id}": Row(WRITERS, 200, 404, body=sends({"lifecycle_stage_pinned": True})),
    "GET /users/{user_id}/consents": Row(READERS, 200, 404),
    "GET /users/{user_id}/consents/history": Row(READERS, 200, 404),
    "PUT /users/{user_id}/consents/{purpose}": Row(WRITERS, 200, 404, body=sends(GRANT)),
    "DELETE /users/{user_id}/consents/{purpose}": Row(WRITERS, 200, 404),
    "GET /users/{user_id}/events": Row(READERS, 200, 404, people=True),
    "GET /users/{user_id}/transactions": Row(READERS, 200, 404),
    "POST /events": Row(WRITERS, 202, body=lambda role: event(f"e-of-{role}")),
    "POST /events/batch": Row(WRITERS, 202, body=lambda role: {"events": [event(f"e-with-{role}")]}),
    "GET /events/types": Row(EVERY_ROLE, 200),
    "PUT /events/types/{event_type}": Row(ADMIN, 201, body=sends({"schema": {"type": "object"}})),
    "GET /poison-events": Row(ADMIN, 200),
    "POST /poison-events/{poison_id}/replay": Row(ADMIN, 200, 404),
    "POST /poison-events/{poison_id}/discard": Row(ADMIN, 200, 404),
    "GET /workflows": Row(EVERY_ROLE, 200),
    "GET /workflows/{workflow_id}": Row(EVERY_ROLE, 200, 404),
    "PATCH /workflows/{workflow_id}": Row(ADMIN, 200, 404, body=sends({"max_attempts": 3})),
    "POST /workflows/{workflow_id}/execute": Row(OPERATORS, 202, 404, body=sends({"user_id": "u-1"})),
    "GET /workflows/{workflow_id}/instances": Row(READERS, 200, 404, people=True),
    "GET /workflows/{workflow_id}/instances/{instance_id}": Row(READERS, 200, 404, people=True),
    # The instance has ended: what its commands do to a running one has tests of its own.
    "DELETE /workflows/{workflow_id}/instances/{instance_id}": Row(OPERATORS, 409, 404),
    "POST /workflows/{workflow_id}/instances/{instance_id}/pause": Row(OPERATORS, 409, 404),
    "POST /workflows/{workflow_id}/instances/{instance_id}/resume": Row(OPERATORS, 409, 404),
    "GET /users/{user_id}/instances": Row(READERS, 200, 404, people=True),
    "GET /dead-letters": Row(READERS, 200, people=True),
    "GET /dead-letters/{dead_letter_id}": Row(READERS, 200, 404, people=True),
    "POST /dead-letters/replay": Row(OPERATORS, 202, body=sends({"user_id": "u-1"})),
    # The letter has been replayed: what becomes of an open one has tests of its own.
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
    "DELETE /keys/{key_id}": Row(ADMIN, 204, 404),
    "GET /health/live": Row(PUBLIC, 200),
    "GET /health/ready": Row(PUBLIC, 200),
}
