"""The audit row of a request, committed before the answer is sent.

A route declares its action with ``@audited("users.read")``, or ``@not_audited`` if it touches no personal data. A
route without either can't be created. The guard opens an :class:`Audit` around every audited request. The endpoint
calls :meth:`Audit.note` with the people whose data it shows or changes. The row is written once:

- with a transaction (``InTransaction``, :meth:`Audit.transaction`, ingest): in it, just before the commit. A crash
  before the commit leaves neither the change nor the row, and no answer. After the commit both are there.
- without one (reads of Temporal, pause, resume, cancel): by a statement of its own, before the answer. A crash
  between the effect in Temporal and that statement leaves the effect in the instance's history alone.
- for a refusal (403, 404, 409, ...): after the rollback, by a statement of its own.

If the row can't be written, the request fails, and its answer shows no data.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType

from models.audit import AuditEntry, AuditOutcome, Detail
from models.errors import ForbiddenError, InvalidContentError, PerennialError
from models.vocabulary import Role
from runtime.database import Database
from store.audit import entries
from store.connection import Connection

MOST_SUBJECTS = 2000
"""The size of the largest batch. A row with more subjects keeps the first of them and their number."""

_REFUSALS = frozenset({403, 404, 409, 410, 412, 422})
_MASKED_ROLES = frozenset({Role.OPERATOR, Role.ANALYST})


class UnauditedAnswerError(Exception):
    """An endpoint returned without calling :meth:`Audit.note`: a bug, which the API answers with 500."""


@dataclass
class Audit:
    """The row that one request adds to the audit log.

    As a context manager it encloses the request. At its exit it writes the row, unless a transaction has written
    it. For a refused request it writes a row for the refusal instead. It raises :class:`UnauditedAnswerError` if
    the endpoint has noted nothing.
    """

    database: Database
    action: str
    actor: str
    """The id of an API key, or e.g. `system:web_ui`."""
    role: str
    request_id: str
    user_id: str | None = None
    """The user that the request is for, if known: the default of :meth:`note`, also for a refusal."""
    written: bool = field(default=False, init=False)
    _row: AuditEntry | None = field(default=None, init=False)

    @property
    def row(self) -> AuditEntry:
        """The row to write. Raises :class:`UnauditedAnswerError` if nothing was noted."""
        if self._row is None:
            raise UnauditedAnswerError(self.action)
        return self._row

    def note(
        self,
        user_id: str | None = None,
        *,
        subjects: Iterable[str] = (),
        fields: Iterable[str] = (),
        details: Mapping[str, Detail] | None = None,
        outcome: AuditOutcome = AuditOutcome.DONE,
    ) -> None:
        """Set the row: the user or users whose data the answer shows or the request changes.

        ``fields`` are names of attributes. ``details`` are counts, codes and names of the platform. Neither
        contains a value of a person.
        """
        distinct = sorted(set(subjects))
        shown = dict(details or {})
        if len(distinct) > MOST_SUBJECTS:
            shown["subjects"] = len(distinct)
        if self.role in _MASKED_ROLES:
            shown["masked"] = True
        self._row = AuditEntry(
            actor=self.actor,
            role=self.role,
            action=self.action,
            user_id=user_id or self.user_id,
            subjects=distinct[:MOST_SUBJECTS],
            fields=sorted(set(fields)),
            request_id=self.request_id,
            outcome=outcome,
            details=shown,
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction of the request. The first one that commits writes the row."""
        async with self.database.connection() as connection, audited_transaction(connection, [self]):
            yield connection

    async def __aenter__(self) -> Audit:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self.written:
            return
        if error is not None:
            if not isinstance(error, PerennialError) or not _is_refusal(error):
                return
            denied = isinstance(error, ForbiddenError)
            outcome = AuditOutcome.DENIED if denied else AuditOutcome.REFUSED
            self.note(outcome=outcome, details={"code": error.code})
        row = self.row
        async with self.database.connection() as connection:
            await entries.append(connection, [row])


@asynccontextmanager
async def audited_transaction(connection: Connection, audits: Sequence[Audit]) -> AsyncIterator[None]:
    """A transaction for one or several requests, which writes their rows just before the commit.

    It rolls back and raises :class:`UnauditedAnswerError` if a request has noted nothing.
    """
    async with connection.transaction():
        yield
        await entries.append(connection, [audit.row for audit in audits if not audit.written])
    for audit in audits:  # after the commit: a rollback removes the rows
        audit.written = True


def names_of(document: Mapping[str, object]) -> list[str]:
    """The names of a document's members, one level down in its groups: `name`, `demographics.city`."""
    names: list[str] = []
    for name, value in document.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else [name]
    return names


def _is_refusal(error: PerennialError) -> bool:
    """Whether an error reveals something about a person, or denies access.

    `validation_failed` does neither: nothing was looked up.
    """
    return error.status in _REFUSALS and error.code != InvalidContentError.code
