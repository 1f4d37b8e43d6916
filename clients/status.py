"""`perennial status`: the answer of `/health/ready` as a table."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import httpx
import orjson
from rich.console import Console
from rich.table import Table

_TIMEOUT = 10.0
_STYLES = {"ok": "green", "ready": "green", "degraded": "yellow"}


class State(IntEnum):
    """The command's exit codes."""

    READY = 0
    DEGRADED = 1
    UNREACHABLE = 2
    """The API doesn't answer, or Postgres or Temporal doesn't answer the API."""


_STATES = {"ready": State.READY, "degraded": State.DEGRADED}


@dataclass(frozen=True)
class StatusOptions:
    """``ca_file`` replaces the machine's certificate authorities; ``watch`` is the pause in seconds, or None."""

    url: str
    ca_file: Path | None = None
    as_json: bool = False
    watch: float | None = None


def run_status(options: StatusOptions, echo: Callable[[str], object]) -> State:
    """Show the status once, or until Ctrl-C; returns the last state."""
    trusted: Any = ssl.create_default_context(cafile=options.ca_file) if options.ca_file else True
    with httpx.Client(verify=trusted, timeout=_TIMEOUT, trust_env=False) as client:
        try:
            while True:
                document = _read(client, options.url)
                _show(document, options, echo)
                if options.watch is None:
                    break
                time.sleep(options.watch)
        except KeyboardInterrupt:
            pass
    return _STATES.get(document["status"], State.UNREACHABLE)


def _read(client: httpx.Client, url: str) -> dict[str, Any]:
    """The answer; ``{"status": "unreachable"}`` in its place if the API gives none."""
    try:
        document = client.get(f"{url.rstrip('/')}/health/ready").json()
    except (httpx.TransportError, httpx.InvalidURL, ValueError):
        document = None
    if not isinstance(document, dict) or "checks" not in document:
        found = f"The API at {url} does not answer" if url else "No running stack was found"
        text = f"{found}; start one, or give --url or --home."
        return {"status": "unreachable", "checks": {}, "reasons": [{"code": "api_unreachable", "detail": text}]}
    return document


def _show(document: dict[str, Any], options: StatusOptions, echo: Callable[[str], object]) -> None:
    if options.as_json:
        echo(orjson.dumps(document).decode())
        return
    table = Table(show_header=False)
    table.add_row("Perennial", _coloured(document["status"]), "")
    for name, check in document["checks"].items():
        table.add_row(name, _coloured(check["status"]), "")
    for lag in document.get("lag") or ():
        place = f"{lag['consumer']}, shard {lag['shard']}"
        table.add_row("lag", place, f"{lag['seconds']:.1f} s, {lag['events']} events")
    if document["checks"].get("postgres", {}).get("status") == "ok" and not document.get("lag"):
        table.add_row("lag", "none", "")
    if held := document.get("held_by"):
        state = f"{held.get('state') or 'state unknown'} since {held.get('since') or 'an unknown time'}"
        table.add_row("held by", held["application"] or "(no name)", state)
    for reason in document.get("reasons") or ():
        table.add_row("", reason["code"], reason["detail"])
    Console().print(table)


def _coloured(status: str) -> str:
    return f"[{_STYLES.get(status, 'red')}]{status}[/]"
