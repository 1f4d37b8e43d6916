"""Commands for API keys, the key file and the audit log."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.common import ACTOR, HomeOption, for_running_stack, with_database
from models.audit import SYSTEM, AuditEntry, Detail
from models.rules.personal_text import identifies_person
from models.vocabulary import Role
from privacy.keyring import KeyFile, KeyRing
from runtime.settings import ConfigurationError, Settings, load_settings

LONGEST_NAME = 64
_HEAD_BYTES = 32
_TAMPERED = 3

KeyId = Annotated[str, typer.Argument(help="The id that `keys list` shows.")]
RateLimit = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Requests a minute; default: the server's.")
]

keys = typer.Typer(help="API keys of the running stack, or of PERENNIAL_DATABASE_URL.", no_args_is_help=True)
keyfile = typer.Typer(help="The file of key-encryption, payload and blind-index keys.", no_args_is_help=True)
audit = typer.Typer(help="The log of every access to personal data.", no_args_is_help=True)


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    role: Annotated[list[Role], typer.Option(help="What it may do; may be repeated.")],
    rate_limit: RateLimit = None,
    home: HomeOption = None,
) -> None:
    """Create an API key, and print it to standard output. It can't be shown again."""
    _check_name(name)
    settings = for_running_stack(load_settings(), home)
    record, key = with_database(settings, lambda connection: create_key(connection, name, role, rate_limit))
    typer.echo(f"Created key {record.key_id} ({', '.join(record.roles)}). It is shown this once:", err=True)
    typer.echo(key)


@keys.command("list")
def keys_list(home: HomeOption = None) -> None:
    """List API keys without their secrets, which aren't stored."""
    from store import api_keys

    settings = for_running_stack(load_settings(), home)
    table = Table()
    for heading in ("id", "name", "role", "rate limit", "created", "revoked"):
        table.add_column(heading, overflow="fold", min_width=20 if heading == "id" else None)
    for record in with_database(settings, api_keys.list_keys):
        limit = "default" if record.rate_limit is None else str(record.rate_limit)
        revoked = f"{record.revoked_at:%Y-%m-%d %H:%M}" if record.revoked_at else ""
        created, roles = f"{record.created_at:%Y-%m-%d %H:%M}", ", ".join(record.roles)
        table.add_row(record.key_id, record.name, roles, limit, created, revoked)
    Console().print(table)


@keys.command("revoke")
def keys_revoke(key_id: KeyId, home: HomeOption = None) -> None:
    """Revoke an API key: its next request is refused, and its callbacks are not sent any more."""
    settings = for_running_stack(load_settings(), home)
    with_database(settings, lambda connection: _revoke_key(connection, key_id))
    typer.echo(f"Revoked key {key_id}.")


@keys.command("rotate")
def keys_rotate(
    key_id: KeyId,
    keep_hours: Annotated[
        int, typer.Option(min=0, max=24, help="How long the replaced secret stays valid; after a leak 0.")
    ] = 24,
    home: HomeOption = None,
) -> None:
    """Give an API key another secret, and print it to standard output. It can't be shown again."""
    settings = for_running_stack(load_settings(), home)
    key, until = with_database(settings, lambda connection: _rotate_key(connection, key_id, keep_hours))
    typer.echo(
        f"The replaced secret is valid until {until:%Y-%m-%d %H:%M}. The new one is shown this once:", err=True
    )
    typer.echo(key)


@keys.command("update")
def keys_update(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    role: Annotated[list[Role] | None, typer.Option(help="What it may do; may be repeated.")] = None,
    rate_limit: RateLimit = None,
    default_rate_limit: Annotated[bool, typer.Option("--default-rate-limit", help="The server's limit.")] = False,
    home: HomeOption = None,
) -> None:
    """Change an API key from its next request on. What isn't given stays."""
    if name is not None:
        _check_name(name)
    if default_rate_limit and rate_limit is not None:
        raise ConfigurationError("Give --rate-limit or --default-rate-limit, not both.")
    limit = None if default_rate_limit else ... if rate_limit is None else rate_limit
    settings = for_running_stack(load_settings(), home)
    record = with_database(settings, lambda connection: _change_key(connection, key_id, name, role or None, limit))
    shown = "default" if record.rate_limit is None else record.rate_limit
    typer.echo(f"Key {key_id}: {record.name}, {', '.join(record.roles)}, rate limit {shown}.")


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
        work = partial(data_keys.rewrap, cipher=Cipher(ring), after=page.after, actor=ACTOR)
        try:
            page = with_database(settings, work)
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
        found = with_database(settings, lambda connection: verify(connection, key, expected))
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
    settings = for_running_stack(given, home)
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


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME or identifies_person(name):
        raise ConfigurationError(
            f"A key's name has 1 to {LONGEST_NAME} printable characters, and no e-mail address or number."
        )


async def create_key(connection: Any, name: str, roles: Collection[Role], rate_limit: int | None) -> Any:
    from store import api_keys
    from store.audit import entries as audit

    record, key = await api_keys.create(connection, name, roles, rate_limit)
    details = {"key_id": record.key_id, "role": ",".join(record.roles)}
    await audit.append(connection, [AuditEntry(ACTOR, SYSTEM, "keys.create", details=details)])
    return record, key


async def _revoke_key(connection: Any, key_id: str) -> None:
    from store import api_keys
    from store.audit import entries as audit

    await api_keys.revoke(connection, key_id)
    await audit.append(connection, [AuditEntry(ACTOR, SYSTEM, "keys.revoke", details={"key_id": key_id})])


async def _rotate_key(connection: Any, key_id: str, keep_hours: int) -> tuple[str, datetime]:
    from store import api_keys
    from store.audit import entries as audit

    rotated = await api_keys.rotate(connection, key_id, timedelta(hours=keep_hours))
    details: dict[str, Detail] = {"key_id": key_id, "keep_hours": keep_hours}
    await audit.append(connection, [AuditEntry(ACTOR, SYSTEM, "keys.rotate", details=details)])
    return rotated


async def _change_key(
    connection: Any,
    key_id: str,
    name: str | None,
    roles: Collection[Role] | None,
    rate_limit: int | EllipsisType | None,
) -> Any:
    from store import api_keys
    from store.audit import entries as audit

    before, record = await api_keys.change(connection, key_id, name=name, roles=roles, rate_limit=rate_limit)
    details = api_keys.change_details(before, record)
    await audit.append(connection, [AuditEntry(ACTOR, SYSTEM, "keys.change", details=details)])
    return record
