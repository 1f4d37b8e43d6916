"""Commands for developers of this repository."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from runtime.settings import ConfigurationError

app = typer.Typer()


@app.command(name="check-migrations", hidden=True)
def check_migrations() -> None:
    """Fail unless the migrations give exactly the schema that the models declare."""
    from runtime.migrate import check_on_scratch

    asyncio.run(check_on_scratch())
    typer.echo("The migrations give the schema that the models declare.")


@app.command(name="data-map")
def data_map(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if it is out of date.")] = False,
    file: Annotated[Path, typer.Option(help="The page.")] = Path("docs/data-map.md"),
) -> None:
    """Write the data map: how each column is encrypted, masked and kept (for developers and CI)."""
    from models.data_map import UndeclaredError, page

    try:
        wanted = page()
    except UndeclaredError as error:
        raise ConfigurationError(str(error)) from None
    if not check:
        file.write_text(wanted)
    elif not file.exists() or file.read_text() != wanted:
        raise ConfigurationError(f"{file} is out of date; write it anew with `perennial data-map`.")
    typer.echo(f"{file} says what the tables declare.")
