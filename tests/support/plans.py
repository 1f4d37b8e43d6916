"""What Postgres does for the statements of a call: how many rows and blocks it looks at."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from asyncpg.connection import LoggedQuery

from store.connection import Connection


@dataclass(frozen=True)
class Plan:
    """An executed plan, as ``EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)`` gives it."""

    root: dict[str, Any]

    @property
    def blocks(self) -> int:
        """How many blocks were read, of tables and indexes: a walk through a whole index shows in nothing else."""
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])

    def looked_at(self, table: str) -> int:
        """How many rows of a table, or of its partitions, were read: those that a filter threw away as well."""
        return sum(
            round(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))
            for node in _nodes(self.root)
            if node.get("Relation Name", "").startswith(table) and node["Node Type"] != "ModifyTable"
        )


async def explained(connection: Connection, call: Callable[[], Awaitable[Any]]) -> list[Plan]:
    """What Postgres does for each statement of a call, by itself. In a transaction; nothing stays of it."""
    statements: list[LoggedQuery] = []
    undone = connection.transaction()
    await undone.start()
    await call()  # the first time, the client may ask for types
    with connection.query_logger(statements.append):
        await call()
    await undone.rollback()
    return [await _plan(connection, each) for each in statements]


async def _plan(connection: Connection, statement: LoggedQuery) -> Plan:
    undone = connection.transaction()
    await undone.start()
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.query}"
    [told] = json.loads(await connection.fetchval(explain, *statement.args))
    await undone.rollback()
    return Plan(told["Plan"])


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
