"""`perennial rebuild`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from cli.common import HomeOption, end


class Part(StrEnum):
    PROJECTIONS = "projections"
    ROLLUPS = "rollups"


app = typer.Typer()


@app.command()
def rebuild(
    since: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="A date (UTC); its whole month is recomputed.")
    ],
    only: Annotated[Part | None, typer.Option(help="Recompute these alone.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare only. The exit code is 1 if something differs.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Recompute the projections of profiles, and then the rollups, from the log beside the running system."""
    from rich.console import Console

    from cli.rebuilding import run_rebuild

    month, output = since.replace(day=1, tzinfo=UTC), Console()
    output.print(f"From {month:%Y-%m-%d} 00:00 UTC, the beginning of a month.", highlight=False)
    end(asyncio.run(run_rebuild(output, month, only=only, dry_run=dry_run, home=home)))
