"""The audit row of a request, committed before the API sends the response.

A route declares its action with ``@audited("users.read")``. A route that touches no personal data declares
``@not_audited``. Creating a route without either raises :class:`api.guard.UndeclaredRouteError`. The guard opens
an :class:`Audit` around every audited request. The endpoint calls :meth:`Audit.note` with the users whose data it
returns or changes. The row is written once:

- A request with a transaction (``InTransaction``, :meth:`Audit.transaction`, ingest) writes the row in that
  transaction, just before the commit. If the process dies before the commit, Postgres has neither the change nor
  the row. The caller then gets no response. After the commit, Postgres has both.
- A request without a transaction (reads of Temporal, pause, resume, cancel) writes the row before the response. If
  the process dies after a change in Temporal and before that write, the row is missing. Then only the instance's
  history in Temporal records the change.
- A refused request (403, 404, 409, ...) writes the row after the rollback.

If the row can't be written, the request fails and its response contains no data.
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
"""The most user ids in one row: those of the largest batch of events. A row for more also has their number."""

_REFUSALS = frozenset({403, 404, 409, 410, 412, 422})
_MASKED_ROLES = frozenset({Role.OPERATOR, Role.ANALYST})


class UnauditedAnswerError(Exception):
    """An endpoint returned without calling :meth:`Audit.note`. This is a bug, and the API responds with 500."""


@dataclass
class Audit:
    """The row that one request adds to the audit log.

    The guard uses it as a context manager around the request. The exit writes the row, unless a transaction has
    already written it. If the request is refused, the exit writes a row about the refusal instead. It raises
    :class:`UnauditedAnswerError` if the endpoint hasn't called :meth:`note`.
    """

    database: Database
    action: str
    actor: str
    """The id of an API key, or e.g. `system:web_ui`."""
    role: str
    """The roles of that key, joined by commas, or `system`."""
    request_id: str
    user_id: str | None = None
    """The user in the request's path or body, if known. :meth:`note` and refusals use this id by default."""
    written: bool = field(default=False, init=False)
    _row: AuditEntry | None = field(default=None, init=False)

    @property
    def row(self) -> AuditEntry:
        """The row to write. Raises :class:`UnauditedAnswerError` if the endpoint hasn't called :meth:`note`."""
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
        """Set the row. ``user_id`` or ``subjects`` are the users whose data the request returns or changes.

        ``fields`` are names of attributes. ``details`` are counts, codes, and the platform's own names and ids.
        Neither contains the value of a personal attribute.
        """
        distinct = sorted(set(subjects))
        row_details = dict(details or {})
        if len(distinct) > MOST_SUBJECTS:
            row_details["subjects"] = len(distinct)
        if _MASKED_ROLES.intersection(roles := self.role.split(",")) and Role.ADMIN not in roles:
            row_details["masked"] = True
        self._row = AuditEntry(
            actor=self.actor,
            role=self.role,
            action=self.action,
            user_id=user_id or self.user_id,
            subjects=distinct[:MOST_SUBJECTS],
            fields=sorted(set(fields)),
            request_id=self.request_id,
            outcome=outcome,
            details=row_details,
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction. The request's first transaction that commits contains the row."""
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
    """Run the caller's block in a transaction, and write the rows of ``audits`` just before the commit.

    If an endpoint hasn't called :meth:`Audit.note`, rolls back and raises :class:`UnauditedAnswerError`.
    """
    async with connection.transaction():
        yield
        await entries.append(connection, [audit.row for audit in audits if not audit.written])
    for audit in audits:  # set only after the commit, because a rollback removes the rows
        audit.written = True


def attribute_names(document: Mapping[str, object]) -> list[str]:
    """The names of a document's attributes. The name of a group precedes its attributes: `demographics.city`."""
    names: list[str] = []
    for name, value in document.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else [name]
    return names


def _is_refusal(error: PerennialError) -> bool:
    """Whether an error reveals something about a user, or denies access. Such an error gets an audit row.

    `validation_failed` gets none, because it describes only the request's content.
    """
    return error.status in _REFUSALS and error.code != InvalidContentError.code
