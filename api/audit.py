"""Every access to personal data is in the audit log before its answer leaves.

A route declares what it is called there (``@audited("users.read")``), or that it touches no personal data
(``@impersonal``); one that does neither can't be made. An audited endpoint says with :meth:`Audit.note` whose data
it shows or changes, and an answer of one that doesn't is never sent (:class:`UnauditedAnswerError`).

Where the row is written:

- routes with the one transaction of the request (``InTransaction``): in it, just before it commits. A crash
  before the commit leaves neither the change nor the row, and no answer; after it both are there.
- routes that open their own: in the transaction that stores (ingest, execute), by :meth:`Audit.write`; else, where
  there was nothing but reading, or an effect in Temporal, by a statement of its own before the answer. A crash
  between such an effect (pause, resume, cancel) and the row leaves it in the instance's history alone.
- a refusal (403, 404, 409, ...): after the roll-back, by a statement of its own.

Where a row can't be written the request fails, and nothing of what was read goes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from models.audit import AuditEntry, AuditOutcome, Detail
from models.errors import Forbidden, InvalidContentError, PerennialError
from models.vocabulary import Role
from runtime.database import Database
from store.audit import entries
from store.connection import Connection

_REFUSALS = frozenset({403, 404, 409, 410, 412, 422})
"""Answers that tell something of a person, or that somebody may not. One to content that doesn't hold (422
`validation_failed`) is none: nobody was looked at."""
_SEE_MASKS = frozenset({Role.OPERATOR, Role.ANALYST})
MOST_SUBJECTS = 2000
"""As many as the largest batch has; of more, the first are kept and their number."""


class UnauditedAnswerError(Exception):
    """An endpoint was about to answer without having said whose data it has touched; a bug of ours."""


@dataclass
class Audit:
    """What the audit log gets of one request. ``user_id`` is the one of the path, if it has one."""

    action: str
    actor: str
    """The id of an API key, or `system:` and what of the platform asks."""
    role: str
    request_id: str
    user_id: str | None
    in_transaction: bool = False
    """Whether the request's transaction writes the row."""
    _entry: AuditEntry | None = field(default=None, init=False)
    _written: bool = field(default=False, init=False)

    def about(self, user_id: str) -> None:
        """Say whom a request is for before it is known what becomes of it, so that a refusal tells."""
        self.user_id = user_id

    def note(
        self,
        user_id: str | None = None,
        *,
        subjects: Iterable[str] = (),
        fields: Iterable[str] = (),
        details: Mapping[str, Detail] | None = None,
    ) -> None:
        """Say whose data the answer shows, or the request changes: one person's, or those of several.

        ``fields`` are names of attributes, ``details`` counts and names of ours: never a value of a person.
        """
        self._entry = self.entry(user_id, subjects=subjects, fields=fields, details=details)

    def entry(
        self,
        user_id: str | None = None,
        *,
        subjects: Iterable[str] = (),
        fields: Iterable[str] = (),
        details: Mapping[str, Detail] | None = None,
        outcome: AuditOutcome = AuditOutcome.DONE,
    ) -> AuditEntry:
        """An entry of this request, for who writes it elsewhere and says so with :meth:`settled`."""
        distinct = sorted(set(subjects))
        told = dict(details or {})
        if len(distinct) > MOST_SUBJECTS:
            told["subjects"] = len(distinct)
        if self.role in _SEE_MASKS:
            told["masked"] = True
        return AuditEntry(
            actor=self.actor,
            role=self.role,
            action=self.action,
            user_id=user_id or self.user_id,
            subjects=distinct[:MOST_SUBJECTS],
            fields=_sorted(fields),
            request_id=self.request_id,
            outcome=outcome,
            details=told,
        )

    def settled(self) -> None:
        """Say that the row is written."""
        self._written = True

    async def write(self, connection: Connection) -> None:
        """Write what was noted, once, in the connection's transaction."""
        if self._entry is not None and not self._written:
            await entries.append(connection, [self._entry])
            self._written = True

    async def write_refusal(self, connection: Connection, error: PerennialError) -> None:
        """Write that the request was refused, in place of what was noted and rolled back."""
        denied = isinstance(error, Forbidden)
        outcome = AuditOutcome.DENIED if denied else AuditOutcome.REFUSED
        await entries.append(connection, [self.entry(outcome=outcome, details={"code": error.code})])
        self._written = True

    async def finish(self, database: Database) -> None:
        """Before the answer: write what hasn't been; raises :class:`UnauditedAnswerError` if nothing was noted."""
        if self._written or (self._entry is not None and self.in_transaction):
            return
        if self._entry is None:
            raise UnauditedAnswerError(self.action)
        async with database.connection() as connection:
            await self.write(connection)

    async def refuse(self, database: Database, error: PerennialError) -> None:
        """Before the answer to a failure: write it, if it is a refusal and the request's transaction doesn't."""
        if self.in_transaction or self._written or not is_refusal(error):
            return
        async with database.connection() as connection:
            await self.write_refusal(connection, error)


def is_refusal(error: PerennialError) -> bool:
    """Whether an error is an answer to an access, and not one to a request that can't be read."""
    return error.status in _REFUSALS and error.code != InvalidContentError.code


def names_of(sent: Mapping[str, object]) -> list[str]:
    """The names of what a document of ours holds, one level down in its groups: `name`, `demographics.city`."""
    names: list[str] = []
    for name, value in sent.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else [name]
    return names


def _sorted(names: Iterable[str]) -> Sequence[str]:
    return sorted(set(names))
