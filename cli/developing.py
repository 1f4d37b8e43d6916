"""Commands for developers of this repository."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import end
from runtime.settings import ConfigurationError

if TYPE_CHECKING:
    from testing.recording import Recording

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


@app.command(name="record-history")
def record_history(
    workflow: Annotated[
        str | None, typer.Argument(help="A workflow's id; default: all without a recording.")
    ] = None,
    course: Annotated[
        str | None, typer.Option(help="Record this course: an --event at a wait (--at), and on to the end.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="The wait at which the event comes.")] = None,
    event: Annotated[str | None, typer.Option(help="The type of the event.")] = None,
    properties: Annotated[str, typer.Option(help="Properties of the events, as JSON.")] = "{}",
    parameters: Annotated[
        str | None, typer.Option(help="Start by a request with these parameters, as JSON, and not by the trigger.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Replace recordings of a workflow that was never released.")
    ] = False,
    directory: Annotated[Path, typer.Option(help="Where recordings are.", exists=True, file_okay=False)] = Path(
        "tests/workflows/histories"
    ),
) -> None:
    """Run a workflow, and keep its history for the replay test (for developers).

    The courses are: to the end, exited, paused, cancelled.
    """
    if any((course, at, event)) and not (workflow and course and at and event):
        raise ConfigurationError("A course needs a workflow, --course, --at and --event.")
    try:
        from testing.recording import Course, Recording
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is missing: record-history needs a checkout, and `make setup`."
        ) from None
    _record(
        workflow,
        Recording(
            directory=directory,
            course=Course(course, at, event) if course and at and event else None,
            properties=_json(properties),
            parameters=None if parameters is None else _json(parameters),
            again=again,
        ),
    )


def _record(workflow: str | None, recording: Recording) -> None:
    from testing.histories import system_workflows, unrecorded
    from testing.job_recording import record_jobs
    from testing.recording import NotRecordedError, record
    from workflows.catalog import find

    wanted = {workflow} if workflow else set(unrecorded(recording.directory))
    jobs = wanted & system_workflows().keys()
    definitions = [find(name) for name in sorted(wanted - jobs)]
    try:
        if definitions:
            asyncio.run(record(definitions, recording, typer.echo))
        if jobs:
            asyncio.run(record_jobs(jobs, recording.directory, typer.echo))
    except NotRecordedError as error:
        raise ConfigurationError(f"Nothing more was recorded: {error}.") from None
    if not wanted:
        typer.echo(f"{recording.directory} has a recording of each workflow.")
    end(0)


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{text!r} is no JSON object.")
    return value
