"""The `perennial` command: the embedded stack, single processes, migrations, keys, import, audit."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from models.audit import SYSTEM, AuditEntry
from models.errors import PerennialError
from models.rules.personal_text import identifies_person
from models.vocabulary import Role
from privacy.keyring import KeyFile, KeyFileError, KeyRing
from runtime.database import UNREACHABLE, Database
from runtime.embedded.home import endpoints_of
from runtime.settings import ConfigurationError, Settings, load_settings

T = TypeVar("T")
LONGEST_NAME = 64
_HEAD_BYTES = 32
_TAMPERED = 3
_ACTOR = "system:cli"
"""The actor of these commands in the audit log."""

app = typer.Typer(
    name="perennial",
    help="Durable customer lifecycle workflows on Temporal, with profiles, events and consent in Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys = typer.Typer(help="API keys of the running stack, or of PERENNIAL_DATABASE_URL.", no_args_is_help=True)
keyfile = typer.Typer(help="The file of key-encryption, payload and blind-index keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(keyfile, name="keyfile")
audit = typer.Typer(help="The log of every access to personal data.", no_args_is_help=True)
app.add_typer(audit, name="audit")

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="State directory of the embedded stack.", envvar="PERENNIAL_HOME"),
]
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

    _exit(serve(settings))


@app.command()
def worker() -> None:
    """Run workflows and activities."""
    settings = load_settings()
    import uvloop

    from worker import run

    uvloop.run(run(settings))
    _exit(0)


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
        _, key = _with_database(settings, lambda connection: _create_key(connection, "admin", Role.ADMIN, None))
        # The file appears complete or not at all. After a crash before that, the next start creates another key.
        draft = admin_key_file.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(key + "\n")
        draft.replace(admin_key_file)


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
    options = StatusOptions(url or str(endpoints.get("api", "")), _ca_file(endpoints, url), as_json, watch)
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
        key=key or _admin_key(endpoints),
        batch_size=batch_size,
        dry_run=dry_run,
        ca_file=_ca_file(endpoints, url),
    )
    _exit(run_import(options))


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    role: Annotated[Role, typer.Option(help="What it may do.")],
    rate_limit: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Requests a minute; default: the server's.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Create an API key, and print it to standard output. It can't be shown again."""
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME or identifies_person(name):
        raise ConfigurationError(
            f"A key's name has 1 to {LONGEST_NAME} printable characters, and no e-mail address or number."
        )
    settings = _for_running_stack(load_settings(), home)
    record, key = _with_database(settings, lambda connection: _create_key(connection, name, role, rate_limit))
    typer.echo(f"Created key {record.key_id} ({record.role}). It is shown this once:", err=True)
    typer.echo(key)


@keys.command("list")
def keys_list(home: HomeOption = None) -> None:
    """List API keys without their secrets, which aren't stored."""
    from store import api_keys

    settings = _for_running_stack(load_settings(), home)
    table = Table()
    for heading in ("id", "name", "role", "rate limit", "created", "revoked"):
        table.add_column(heading, overflow="fold", min_width=20 if heading == "id" else None)
    for record in _with_database(settings, api_keys.list_keys):
        limit = "default" if record.rate_limit is None else str(record.rate_limit)
        revoked = f"{record.revoked_at:%Y-%m-%d %H:%M}" if record.revoked_at else ""
        table.add_row(
            record.key_id, record.name, record.role, limit, f"{record.created_at:%Y-%m-%d %H:%M}", revoked
        )
    Console().print(table)


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The id that `keys list` shows.")], home: HomeOption = None
) -> None:
    """Revoke an API key: its next request is refused."""
    settings = _for_running_stack(load_settings(), home)
    _with_database(settings, lambda connection: _revoke_key(connection, key_id))
    typer.echo(f"Revoked key {key_id}.")


@keyfile.command("create")
def keyfile_create(file: Annotated[Path, typer.Argument(help="Where to write it.")]) -> None:
    """Write a new key file. Keep a copy: without it, encrypted data can't be decrypted."""
    if not KeyFile(file).create():
        raise ConfigurationError(f"{file} exists; it was left as it is.")
    typer.echo(f"Wrote {file}. Keep a copy in a safe place: without it, encrypted data can't be decrypted.")


@keyfile.command("rewrap")
def keyfile_rewrap(home: HomeOption = None) -> None:
    """Wrap all data keys with the current key-encryption key, so that older ones can leave the key file."""
    from privacy.encryption import Cipher, DecryptionError
    from store.users import data_keys

    settings, ring = _with_key_ring(home)
    damaged = 0
    page, count = data_keys.Rewrapped(0, 0, ""), 0
    while page.after is not None:
        work = partial(data_keys.rewrap, cipher=Cipher(ring), after=page.after, actor=_ACTOR)
        try:
            page = _with_database(settings, work)
        except DecryptionError as error:
            raise ConfigurationError(f"The key file doesn't fit the database: {error}.") from None
        count, damaged = count + page.count, damaged + page.damaged
    typer.echo(f"Wrapped {count} keys anew; all are wrapped with the current key-encryption key.")
    if damaged:
        typer.echo(
            f"perennial: {damaged} damaged keys were left as they are; restore them from a backup.", err=True
        )


@audit.command("verify")
def audit_verify(
    head: Annotated[
        str | None, typer.Option(help="An earlier head (`GET /audit/head`) that the log must contain.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Check the audit log against its checkpoints. The exit code is 3 if the log was tampered with."""
    from privacy.audit_chain import ChainBrokenError, CheckpointKey
    from privacy.encryption import Cipher
    from store.audit.verification import verify

    settings, ring = _with_key_ring(home)
    key, expected = CheckpointKey(Cipher(ring)), _parse_head(head)
    try:
        found = _with_database(settings, lambda connection: verify(connection, key, expected))
    except ChainBrokenError as error:
        typer.echo(f"perennial: {error}", err=True)
        raise typer.Exit(_TAMPERED) from None
    kept = found.hours - found.expired_hours
    expired = f", and the checkpoints of {found.expired_hours} that have expired" if found.expired_hours else ""
    typer.echo(f"The audit log is as it was checkpointed: {found.rows} rows in {kept} hours{expired}.")
    if found.newest:
        typer.echo(f"Head of {found.newest.hour:%Y-%m-%d %H:00} UTC: {found.newest.head.hex()}")


def _with_key_ring(home: Path | None) -> tuple[Settings, KeyRing]:
    given = load_settings()
    settings = _for_running_stack(given, home)
    return settings, KeyFile(settings.key_file or (home or given.home) / "keys.json").load()


def _parse_head(given: str | None) -> bytes | None:
    if given is None:
        return None
    try:
        head = bytes.fromhex(given)
    except ValueError:
        head = b""
    if len(head) != _HEAD_BYTES:
        raise ConfigurationError(f"A head has {2 * _HEAD_BYTES} hexadecimal digits.")
    return head


async def _create_key(connection: Any, name: str, role: Role, rate_limit: int | None) -> Any:
    from store import api_keys
    from store.audit import entries as audit

    record, key = await api_keys.create(connection, name, role, rate_limit)
    details = {"key_id": record.key_id, "role": record.role}
    await audit.append(connection, [AuditEntry(_ACTOR, SYSTEM, "keys.create", details=details)])
    return record, key


async def _revoke_key(connection: Any, key_id: str) -> None:
    from store import api_keys
    from store.audit import entries as audit

    await api_keys.revoke(connection, key_id)
    await audit.append(connection, [AuditEntry(_ACTOR, SYSTEM, "keys.revoke", details={"key_id": key_id})])


def _with_database(settings: Settings, work: Callable[[Any], Awaitable[T]]) -> T:
    """Run ``work`` in one transaction."""

    async def run() -> T:
        database = Database(settings.require_database_url(), size=1, application="cli")
        await database.open()
        try:
            async with database.transaction() as connection:
                return await work(connection)
        finally:
            await database.close()

    return asyncio.run(run())


def _for_running_stack(settings: Settings, home: Path | None) -> Settings:
    """The settings, with the running stack's database unless the environment names one."""
    if settings.database_url:
        return settings
    found = endpoints_of(home or settings.home).get("postgres")
    if not found:
        raise ConfigurationError(
            "No running stack was found; start one with `make run`, give --home, or set PERENNIAL_DATABASE_URL."
        )
    return settings.model_copy(update={"database_url": found})


def _ca_file(endpoints: dict[str, Any], url: str | None) -> Path | None:
    """The running stack's certificate authority, unless another API is meant."""
    return Path(endpoints["ca_file"]) if "ca_file" in endpoints and not url else None


def _admin_key(endpoints: dict[str, Any]) -> str:
    with suppress(KeyError, OSError):
        return Path(endpoints["admin_key_file"]).read_text().strip()
    return ""


def _exit(code: int) -> NoReturn:
    """Exit without the interpreter's shutdown, which can abort in native code of the Temporal client."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run the command; an expected error is one sentence and exit code 1."""
    try:
        app()
    except (ConfigurationError, KeyFileError, PerennialError) as error:
        typer.echo(f"perennial: {error}", err=True)
    except UNREACHABLE:
        typer.echo("perennial: the database can't be reached; is it running?", err=True)
    _exit(1)


if __name__ == "__main__":
    main()
