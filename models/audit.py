"""What the audit log says of an access to personal data.

An entry names people by their user ids alone, and attributes by their names; never a value of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

SYSTEM = "system"
"""The role of what the platform does by itself; such an actor is called ``system:`` and its work."""

Detail = bool | int | str | None
"""What an entry may tell beside the rest: counts, codes, names of ours; nothing of a person."""


class AuditOutcome(StrEnum):
    """What became of an access."""

    DONE = "done"
    """The answer went out, or the change is committed."""
    DENIED = "denied"
    """The key's role may not do this: nothing was looked at."""
    REFUSED = "refused"
    """Nobody there, no consent, a conflict: nothing was changed; ``details`` has the ``code``."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One access, as it is appended to the log; the log adds its number, transaction and time.

    ``actor`` is the id of an API key, or `system:retention` and the like. ``action`` is `resource.verb`.
    ``user_id`` is whose data a request was for, and kept only where it is somebody's; ``subjects`` are the ids of
    those whom a list showed or a batch wrote. ``fields`` are the names of attributes that were shown or written.
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
