"""Execution plans of the statements of a call: rows and blocks that Postgres reads."""

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
        """Blocks read of tables and indexes. Only this shows a scan of a whole index."""
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])

    def rows_read(self, table: str) -> int:
        """Rows read of a table, or of its partitions, with those that a filter removed."""
        return sum(
            round(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))
            for node in _nodes(self.root)
            if node.get("Relation Name", "").startswith(table) and node["Node Type"] != "ModifyTable"
        )


async def explained(connection: Connection, call: Callable[[], Awaitable[Any]]) -> list[Plan]:
    """The plan of each statement of a call, executed alone, in a transaction that is rolled back."""
    statements: list[LoggedQuery] = []
    undone = connection.transaction()
    await undone.start()
    await call()  # the first call may also query types
    with connection.query_logger(statements.append):
        await call()
    await undone.rollback()
    return [await _plan(connection, each) for each in statements]


async def _plan(connection: Connection, statement: LoggedQuery) -> Plan:
    undone = connection.transaction()
    await undone.start()
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.query}"
    [explained] = json.loads(await connection.fetchval(explain, *statement.args))
    await undone.rollback()
    return Plan(explained["Plan"])


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
