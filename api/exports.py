"""Everything that is held on a person, as one JSON document that is written while it is read.

Rows are read a page at a time, each in a short transaction of its own, and nothing of Postgres is held while the
other side takes what was read: a slow reader would keep a connection from everybody else, and a transaction or a
snapshot that stays open for as long as somebody likes would hold back vacuum and the log's horizon. So memory
doesn't grow with what there is, and an export is no snapshot: a row that was there all the time is in it, once,
as it was when its page was read; one that came or went meanwhile may be. The person's data key is read with
every page.

The status goes out before the rows are read, so what goes wrong later can't be told by it. The answer then
breaks off without its end (:class:`api.request_context.ResponseAbortedError`), and is neither whole HTTP nor whole JSON:
nobody can take half of what is held for all of it. That is so where the person is erased meanwhile, since a page
finds no key, where Postgres goes away, and where this process is killed or told to stop. Whoever hangs up ends
it as well. The row in the audit log is committed with the request's transaction, before the first byte: it may
tell of more than what the other side got, never of less.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from api.instances import known_words
from api.masking import row_for
from api.profiles import SHOWN, seen_by
from api.request_context import ResponseAbortedError
from api.resources import Resources
from models.errors import PerennialError
from models.rules.event_types import EventType
from models.rules.money import written
from models.schemas.exports import EVENT_PARTS, PROFILE, beside_the_profile, field_of
from models.tables.events import Event
from models.vocabulary import Role
from runtime.database import UNREACHABLE
from store import exports
from store.connection import Connection
from store.events.types import EventTypes
from store.exports import ExportedTable, Page
from store.users.rows import StoredUser

_BODY = "body"


def exported_fields() -> list[str]:
    """The names of what an export shows, for the audit log."""
    return [*SHOWN, *(f"{table.name}.{name}" for table in exports.tables() for name in _shown(table).columns)]


def _shown(table: ExportedTable) -> ExportedTable:
    """A table without what the profile shows of it."""
    return replace(table, columns=_beside(table)) if table.name == PROFILE else table


def _beside(table: ExportedTable) -> tuple[str, ...]:
    return tuple(beside_the_profile(list(table.columns)))


@dataclass(frozen=True)
class Export:
    """What is held on one person, as a role sees it."""

    resources: Resources
    role: Role
    user_id: str
    profile: Mapping[str, Any]
    exported_at: datetime
    _types: EventTypes = field(default_factory=EventTypes)

    @classmethod
    async def begin(cls, resources: Resources, connection: Connection, role: Role, stored: StoredUser) -> Export:
        """An export that begins with a profile, read in the same transaction."""
        [users] = [_shown(table) for table in exports.tables() if table.name == PROFILE]
        user_id = stored.profile.user_id
        profile = seen_by(role, stored)
        for row in (await exports.page(connection, resources.cipher, user_id, users, None)).rows:
            profile |= _seen(role, users, row, {})
        return cls(resources, role, user_id, profile, datetime.now(UTC))

    async def stream(self) -> AsyncIterator[bytes]:
        """The document, in parts. Raises :class:`ResponseAbortedError`."""
        try:
            async for part in self._parts():
                yield part
        except (PerennialError, *UNREACHABLE) as error:
            raise ResponseAbortedError from error

    async def _parts(self) -> AsyncIterator[bytes]:
        head = {"user_id": self.user_id, "exported_at": self.exported_at, "profile": self.profile}
        yield _json(head)[:-1]
        for table in exports.tables():
            if table.name != PROFILE:
                yield b',"%s":[' % table.name.encode()
                async for part in self._rows(table):
                    yield part
                yield b"]"
        yield b"}"

    async def _rows(self, table: ExportedTable) -> AsyncIterator[bytes]:
        separator, after = b"", None
        while True:
            page, types = await self._page(table, after)
            if page.last is None:
                return
            yield separator + b",".join(_json(_seen(self.role, table, row, types)) for row in page.rows)
            separator, after = b",", page.last

    async def _page(
        self, table: ExportedTable, after: tuple[Any, ...] | None
    ) -> tuple[Page, Mapping[str, EventType]]:
        """A page, and the declarations of its events' types; nothing of Postgres is held afterwards."""
        async with self.resources.database.transaction() as connection:
            page = await exports.page(connection, self.resources.cipher, self.user_id, table, after)
            if table.model is not Event:
                return page, {}
            return page, await self._types.find(connection, {row["event_type"] for row in page.rows})


def _seen(
    role: Role, table: ExportedTable, row: Mapping[str, Any], types: Mapping[str, EventType]
) -> dict[str, Any]:
    """A row as a role sees it, under the names that the API has for its columns."""
    known, declared = known_words(row.get("workflow_id", "")), types.get(row.get("event_type", ""))
    seen = row_for(role, table.model, row, known=known, declared=declared)
    if table.model is Event:
        body = seen.pop(_BODY)
        seen |= {part: body.get(part) for part in EVENT_PARTS}
    return {field_of(table.name, name): value for name, value in seen.items()}


def _json(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z)


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):  # money
        return written(value)
    raise TypeError(type(value).__name__)
