"""Entries of the audit log. They hold user ids and names of attributes, never an attribute's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

SYSTEM = "system"
"""The role of the platform's own jobs. Their actor is ``system:`` and the job's name."""

Detail = bool | int | str | None
"""A value of ``AuditEntry.details``: a count, a code or an id of the platform's, never a person's data."""


class AuditOutcome(StrEnum):
    DONE = "done"
    """The response was sent, or the change is committed."""
    DENIED = "denied"
    """The key's role does not allow the request; no data was read."""
    REFUSED = "refused"
    """Not found, no consent, or a conflict: nothing was changed. ``details`` holds the ``code``."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One access. The store adds its id, transaction and time.

    ``actor`` is the id of an API key, or for example `system:retention`. ``action`` is `resource.verb`.
    ``user_id`` is the user of the request, if that user exists. ``subjects`` are the users in a list or a batch.
    ``fields`` are the attributes that were read or written.
    """

    actor: str
    role: str
    action: str
    user_id: str | None = None
    subjects: Sequence[str] = ()
    fields: Sequence[str] = ()
    request_id: str | None = None
    outcome: AuditOutcome = AuditOutcome.DONE
    details: Mapping[str, Detail] = field(default_factory=dict)
