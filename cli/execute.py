"""`perennial execute`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import HomeOption, admin_key_of, ca_file_of, end
from runtime.embedded.home import endpoints_of
from runtime.settings import ConfigurationError, load_settings

app = typer.Typer()


@app.command()
def execute(
    workflow: Annotated[str, typer.Argument(help="The workflow's id, such as win_back.")],
    users: Annotated[
        Path,
        typer.Option(help="A user id on each line, or CSV with a column user_id.", exists=True, dir_okay=False),
    ],
    parameters: Annotated[str, typer.Option(help="The workflow's parameters, in JSON.")] = "{}",
    per_second: Annotated[float | None, typer.Option(min=1, max=100, help="Starts a second; default: 20.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also start users for whom the same bulk was sent within a day.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the file only; send nothing.")] = False,
    url: Annotated[str | None, typer.Option(help="The API; default: the running stack's.")] = None,
    key: Annotated[
        str | None, typer.Option(help="API key; default: the stack's admin key.", envvar="PERENNIAL_API_KEY")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Execute a workflow for the users of a file. A second run within a day starts nobody again."""
    from clients.bulks import ExecuteOptions, run_execute

    endpoints = endpoints_of(home or load_settings().home)
    if not dry_run and not (url or endpoints):
        raise ConfigurationError("No running stack was found; give --url and --key, or start one with `make run`.")
    options = ExecuteOptions(
        workflow_id=workflow,
        users=users,
        url=url or str(endpoints.get("api", "")),
        key=key or ("" if dry_run else admin_key_of(endpoints, url)),
        parameters=_object(parameters),
        per_second=per_second,
        again=again,
        dry_run=dry_run,
        ca_file=ca_file_of(endpoints, url),
    )
    end(run_execute(options))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError('--parameters must be a JSON object, such as \'{"invoice_id": "in-1"}\'.')
    return value
