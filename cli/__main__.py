"""The `perennial` command: the embedded stack, single processes, migrations, keys, import, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import developing, execute, rebuild
from cli.common import HomeOption, admin_key_of, ca_file_of, end, with_database
from cli.keys import audit, create_key, keyfile, keys
from models.errors import PerennialError
from models.vocabulary import Role
from privacy.keyring import KeyFile, KeyFileError
from runtime.database import UNREACHABLE
from runtime.embedded.home import endpoints_of
from runtime.settings import ConfigurationError, load_settings

app = typer.Typer(
    name="perennial",
    help="Durable customer lifecycle workflows on Temporal, with profiles, events and consent in Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(keys, name="keys")
app.add_typer(keyfile, name="keyfile")
app.add_typer(audit, name="audit")
app.add_typer(developing.app)
app.add_typer(execute.app)
app.add_typer(rebuild.app)

Port = Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")]


@app.command()
def dev(
    home: HomeOption = None,
    api_port: Port = 8080,
    temporal_port: Port = 7233,
    ui_port: Port = 8233,
    tls: Annotated[bool, typer.Option("--tls", help="Serve the API over TLS 1.3, self-signed.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=32, help="How many worker processes.")] = 1,
) -> None:
    """Run the embedded stack: Postgres, Temporal with its Web UI, API and workers."""
    from runtime.embedded.ports import StackOptions
    from runtime.embedded.supervisor import run_stack

    settings = load_settings()
    options = StackOptions(
        home=(home or settings.home).absolute(),
        api_port=api_port,
        temporal_port=temporal_port,
        ui_port=ui_port,
        tls=tls,
        workers=workers,
    )
    raise typer.Exit(run_stack(options, settings))


@app.command()
def api() -> None:
    """Serve the HTTP API."""
    settings = load_settings()  # a bad setting is reported before the slow import
    from api.server import serve

    end(serve(settings))


@app.command()
def worker() -> None:
    """Run workflows and activities."""
    settings = load_settings()
    import uvloop

    from worker import run

    uvloop.run(run(settings))
    end(0)


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    from migrations.run import migrate_database

    migrate_database(load_settings())


@app.command(hidden=True)
def bootstrap() -> None:
    """Create the key file, the schema and an admin key of the embedded stack."""
    from migrations.run import migrate_database

    settings = load_settings()
    KeyFile(settings.require_key_file()).create()
    migrate_database(settings)
    admin_key_file = settings.home / "admin.key"
    if not admin_key_file.exists():
        _, key = with_database(settings, lambda connection: create_key(connection, "admin", [Role.ADMIN], None))
        # The file appears complete or not at all. After a crash before that, the next start creates another key.
        draft = admin_key_file.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(key + "\n")
        draft.replace(admin_key_file)


@app.command()
def status(
    url: Annotated[str | None, typer.Option(help="The API; default: the running stack's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer of /health/ready.")] = False,
    watch: Annotated[float | None, typer.Option(min=1, help="Show it again after so many seconds.")] = None,
    home: HomeOption = None,
) -> None:
    """Show whether the stack works, and why not. Exit codes: 0 ready, 1 degraded, 2 unreachable."""
    from clients.status import StatusOptions, run_status

    endpoints = endpoints_of(home or load_settings().home)
    options = StatusOptions(url or str(endpoints.get("api", "")), ca_file_of(endpoints, url), as_json, watch)
    raise typer.Exit(run_status(options, typer.echo))


@app.command(name="import")
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV or NDJSON.", exists=True, dir_okay=False)],
    mapping: Annotated[Path, typer.Option("--mapping", help="TOML: which column is which attribute.")],
    encoding: Annotated[
        str | None, typer.Option(help="Of the file, such as windows-1252; default: the mapping's, or UTF-8.")
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="Zone of times without an offset, such as Europe/Berlin; default: the mapping's."),
    ] = None,
    shift_days: Annotated[int, typer.Option(help="Move marked times by so many days.")] = 0,
    url: Annotated[str | None, typer.Option(help="The API; default: the running stack's.")] = None,
    key: Annotated[
        str | None, typer.Option(help="API key; default: the stack's admin key.", envvar="PERENNIAL_API_KEY")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=2000, help="Items a request; default: as many as the API takes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and map only; send nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Import profiles or events from a file, through the API. A second run changes nothing."""
    from clients.importer.run import ImportOptions, run_import

    settings = load_settings()
    endpoints = endpoints_of(home or settings.home)
    if not dry_run and not (url or endpoints):
        raise ConfigurationError("No running stack was found; give --url and --key, or start one with `make run`.")
    options = ImportOptions(
        file=file,
        mapping=mapping,
        encoding=encoding,
        timezone=timezone,
        shift_days=shift_days,
        url=url or str(endpoints.get("api", "")),
        key=key or ("" if dry_run else admin_key_of(endpoints, url)),
        batch_size=batch_size,
        dry_run=dry_run,
        ca_file=ca_file_of(endpoints, url),
    )
    end(run_import(options))


def main() -> None:
    """Run the command; an expected error is one sentence and exit code 1."""
    try:
        app()
    except (ConfigurationError, KeyFileError, PerennialError) as error:
        typer.echo(f"perennial: {error}", err=True)
    except UNREACHABLE:
        typer.echo("perennial: the database can't be reached; is it running?", err=True)
    end(1)


if __name__ == "__main__":
    main()
