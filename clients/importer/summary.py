"""What an import did, as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import orjson
from rich.console import Console
from rich.table import Table

from clients.importer.kinds import Kind, Taken


@dataclass
class Summary:
    """The counts of one run."""

    rows: int = 0
    items: int = 0
    taken: Counter[Taken] = field(default_factory=Counter)
    rejected_rows: int = 0
    consents: int = 0
    seconds: float = 0.0


def show(console: Console, kind: Kind, summary: Summary, example: bytes | None) -> None:
    """Print the table; of a dry run, with an ``example`` of what would be sent, also that."""
    counts = {"rows": summary.rows, kind.name: summary.items}
    if example is None:
        counts |= {label: summary.taken[taken] for taken, label in kind.outcomes.items()}
        if summary.consents:
            counts["consents granted"] = summary.consents
    counts["rejected rows"] = summary.rejected_rows
    rate = summary.rows / summary.seconds if summary.seconds else 0.0
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    table.add_row("seconds", f"{summary.seconds:.1f}")
    table.add_row("rows a second", f"{rate:,.0f}")
    console.print(table)
    if example is not None:
        console.print("Nothing was sent. The first of what would be:", highlight=False)
        console.print_json(orjson.dumps(orjson.loads(example)).decode())
