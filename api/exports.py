"""The export of a person: one JSON document, streamed while it is read.

The API reads each page of rows in a short transaction of its own. While the client receives a page, the API holds
no connection, transaction or snapshot. So a slow client doesn't block other requests, vacuum or the horizon of the
log. Nor does memory grow with the export.

But an export is no snapshot. Each row that existed all the time is in it once, as it was when its page was read. A
row that was inserted or deleted meanwhile may be in it. The API reads every page together with the person's data
key.

The API sends the status before it reads the rows, so a later failure can't change it. The response then ends early
(:class:`api.request_context.ResponseAbortedError`). It is neither complete HTTP nor valid JSON, so the client can
detect it. This happens if the person is erased: the next page finds no key. It also happens if Postgres becomes
unreachable, the API stops or is killed, or the client disconnects.

The audit row commits with the request's transaction, before the first byte. So it may name more than the client
has received, never less.
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
from api.profiles import AUDITED_FIELDS, full_profile, masked_for
from api.request_context import ResponseAbortedError
from api.resources import Resources
from models.errors import PerennialError
from models.rules.event_types import EventType
from models.rules.money import format_amount
from models.schemas.exports import EVENT_PARTS, PROFILE, columns_outside_profile, export_name
from models.tables.events import Event
from models.vocabulary import Role
from privacy.encryption import DecryptionError
from runtime.database import UNREACHABLE
from store import exports
from store.connection import Connection
from store.events.types import EventTypes
from store.exports import ExportedTable, Page
from store.users.rows import StoredUser

_BODY = "body"


def exported_fields() -> list[str]:
    """The names of the exported fields, for the audit log."""
    return [
        *AUDITED_FIELDS,
        *(f"{table.name}.{name}" for table in exports.tables() for name in _shown(table).columns),
    ]


def _shown(table: ExportedTable) -> ExportedTable:
    """A table without the columns that the profile shows."""
    if table.name != PROFILE:
        return table
    return replace(table, columns=tuple(columns_outside_profile(list(table.columns))))


@dataclass(frozen=True)
class Export:
    """All data of one person, as a role sees it."""

    resources: Resources
    role: Role
    user_id: str
    profile: Mapping[str, Any]
    exported_at: datetime
    _types: EventTypes = field(default_factory=EventTypes)

    @classmethod
    async def begin(cls, resources: Resources, connection: Connection, role: Role, stored: StoredUser) -> Export:
        """An export that begins with the profile ``stored``, which the same transaction has read."""
        [users] = [_shown(table) for table in exports.tables() if table.name == PROFILE]
        user_id = stored.profile.user_id
        profile = masked_for(role, full_profile(stored, resources.settings.clv_expected_years))
        for row in (await exports.page(connection, resources.cipher, user_id, users, None)).rows:
            profile |= _seen(role, users, row, {})
        return cls(resources, role, user_id, profile, datetime.now(UTC))

    async def stream(self) -> AsyncIterator[bytes]:
        """The document in parts. Raises :class:`ResponseAbortedError`."""
        try:
            async for part in self._parts():
                yield part
        except (PerennialError, DecryptionError, *UNREACHABLE) as error:
            raise ResponseAbortedError from error

    async def _parts(self) -> AsyncIterator[bytes]:
        head = {"user_id": self.user_id, "exported_at": self.exported_at, "profile": self.profile}
        # Without the closing brace: the tables follow.
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
        """A page of rows, and the declarations of its events' types."""
        async with self.resources.database.transaction() as connection:
            page = await exports.page(connection, self.resources.cipher, self.user_id, table, after)
            if table.model is not Event:
                return page, {}
            return page, await self._types.find(connection, {row["event_type"] for row in page.rows})


def _seen(
    role: Role, table: ExportedTable, row: Mapping[str, Any], types: Mapping[str, EventType]
) -> dict[str, Any]:
    """A row as a role sees it, under the API's names of its columns."""
    known, declared = known_words(row.get("workflow_id", "")), types.get(row.get("event_type", ""))
    seen = row_for(role, table.model, row, known=known, declared=declared)
    if table.model is Event:
        body = seen.pop(_BODY)
        seen |= {part: (body or {}).get(part) for part in EVENT_PARTS}
    return {export_name(table.name, name): value for name, value in seen.items()}


def _json(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z)


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):  # money
        return format_amount(value)
    raise TypeError(type(value).__name__)
