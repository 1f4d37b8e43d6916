"""`perennial execute`: executes a workflow for the users of a file, in bulks, through the API.

The `Idempotency-Key` of each bulk is a digest of the bulk. So a second run within a day, after a crash for
instance, gets the first answers again and starts nobody twice; ``again`` prevents that.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from clients.importer.api_client import ApiClient, RetryPolicy, document_of, http_client
from clients.importer.options import ImportStoppedError
from clients.importer.progress import Reporter, print_text, reporter
from models.schemas.fields import UserId
from models.schemas.users import MAX_BATCH

ALL_STARTED, SOME_REJECTED, STOPPED = 0, 1, 2
"""Exit codes."""
_COLUMN = "user_id"
_DELIMITERS = (",", ";", "\t")
_DUPLICATE = ("duplicate_user", "is listed before")
_USER_ID: TypeAdapter[str] = TypeAdapter(UserId)


@dataclass(frozen=True)
class ExecuteOptions:
    workflow_id: str
    users: Path
    """A user id on each line, or CSV with a column `user_id`."""
    url: str = ""
    key: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    per_second: float | None = None
    """Starts a second. None is the API's default."""
    again: bool = False
    """Start users again for whom the same bulk was sent within a day."""
    dry_run: bool = False
    """Read the file and send nothing."""
    ca_file: Path | None = None
    """Certificates to trust in addition to the system's."""


@dataclass(frozen=True)
class User:
    line: int
    user_id: str


@dataclass
class Summary:
    read: int = 0
    started: int = 0
    repeated: int = 0
    """Bulks that the API has answered before."""
    rejects: list[tuple[User, str, str]] = field(default_factory=list)
    """Each with the code and the message."""


def run_execute(
    options: ExecuteOptions,
    *,
    output: Console | None = None,
    errors: Console | None = None,
    retries: RetryPolicy | None = None,
) -> int:
    """Returns 0 if all users were started, 1 if some were rejected, 2 if the run stopped.

    Progress and summary go to ``output``, the reason of a stop to ``errors``, and rejected users to a CSV file
    beside the input, which can be the input of a further run.
    """
    output, errors = output or Console(), errors or Console(stderr=True)
    summary = Summary()
    stopped: str | None = None
    try:
        asyncio.run(_run(options, output, retries or RetryPolicy(), summary))
    except ImportStoppedError as error:
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = "Interrupted."
    except (OSError, UnicodeDecodeError, csv.Error):
        stopped = f"{options.users} can't be read as UTF-8 text."
    rejects = _write_rejects(options.users, summary)
    print_text(output, _shown(options, summary))
    if rejects is not None:
        print_text(output, f"The rejected users are in {rejects}, each with the reason.")
    if stopped is None:
        return SOME_REJECTED if summary.rejects else ALL_STARTED
    if summary.started:
        stopped += " Run it again within a day to continue: users sent before are not started twice."
    print_text(errors, stopped)
    return STOPPED


async def _run(options: ExecuteOptions, output: Console, retries: RetryPolicy, summary: Summary) -> None:
    with reporter(output, _count_lines(options.users), "Executing") as report:
        users = _checked(_read(options.users), summary, report)
        if options.dry_run:
            for _ in users:
                report.rows_done(1)
            return
        salt = secrets.token_hex(8) if options.again else ""
        async with http_client(options.url, options.key, options.ca_file, agent="perennial-execute") as client:
            api = ApiClient(client, retries, report.note)
            while bulk := list(islice(users, MAX_BATCH)):
                await _send(api, options, salt, bulk, summary, report)
                report.rows_done(len(bulk))


async def _send(
    api: ApiClient, options: ExecuteOptions, salt: str, bulk: Sequence[User], summary: Summary, report: Reporter
) -> None:
    body: dict[str, Any] = {"user_ids": [user.user_id for user in bulk], "parameters": options.parameters}
    if options.per_second is not None:
        body["per_second"] = options.per_second
    path = f"/workflows/{quote(options.workflow_id, safe='')}/execute/batch"
    sent = json.dumps(body).encode()
    key = hashlib.sha256(b"\0".join((path.encode(), salt.encode(), sent))).hexdigest()
    response = await api.request("POST", path, sent, {"Idempotency-Key": f"execute-{key}"})
    if response.status_code != httpx.codes.ACCEPTED:
        raise _refused(api, response)
    answer = document_of(response)
    repeated = "Idempotency-Replayed" in response.headers
    summary.started += answer["started"]
    summary.repeated += repeated
    for user, result in zip(bulk, answer["results"], strict=True):
        if result["status"] != "started":
            error = result["errors"][0]
            summary.rejects.append((user, error["code"], error["message"]))
    sent_before = ", sent before" if repeated else ""
    report.note(f"bulk {answer['bulk_id']}: {answer['started']:,} of {len(bulk):,} started{sent_before}")


def _refused(api: ApiClient, response: httpx.Response) -> ImportStoppedError:
    if response.status_code == httpx.codes.FORBIDDEN:
        return ImportStoppedError("This key may not execute workflows; it takes one of role admin or operator.")
    problems = document_of(response).get("errors") or ()
    if problems:
        return ImportStoppedError("; ".join(f"{each['pointer']} {each['message']}" for each in problems))
    return api.stopped(response, "users")


def _read(file: Path) -> Iterator[User]:
    """The ids of a file. Raises :class:`ImportStoppedError` if a CSV file has no column `user_id`."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        first = next((line for line in lines if line.strip()), "")
        lines.seek(0)
        delimiter = next((each for each in _DELIMITERS if each in first), None)
        rows = csv.reader(lines, delimiter=delimiter or ",")
        header = next((row for row in rows if any(row)), [])
        names = [name.strip() for name in header]
        if delimiter is not None and _COLUMN not in names:
            raise ImportStoppedError(f"{file} has no column '{_COLUMN}' in its first line.")
        place = names.index(_COLUMN) if _COLUMN in names else 0
        if header and _COLUMN not in names:
            yield User(rows.line_num, names[0])
        for row in rows:
            if any(row):
                yield User(rows.line_num, row[place].strip() if len(row) > place else "")


def _checked(users: Iterator[User], summary: Summary, report: Reporter) -> Iterator[User]:
    """The users with a valid id, each once; rejects the others. The API would accept one that two bulks name."""
    seen: set[str] = set()
    for user in users:
        summary.read += 1
        problem = _DUPLICATE if user.user_id in seen else _problem(user.user_id)
        if problem is None:
            seen.add(user.user_id)
            yield user
        else:
            summary.rejects.append((user, *problem))
            report.rows_done(1)


def _problem(user_id: str) -> tuple[str, str] | None:
    try:
        _USER_ID.validate_python(user_id)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False)
        return first["type"], first["msg"]
    return None


def _count_lines(file: Path) -> int:
    with file.open("rb") as content:
        return max(sum(block.count(b"\n") for block in iter(lambda: content.read(1 << 20), b"")), 1)


def _write_rejects(file: Path, summary: Summary) -> Path | None:
    """Write the rejected users, or remove the file of an earlier run."""
    path = file.with_name(f"{file.stem}.rejects.csv")
    if not summary.rejects:
        path.unlink(missing_ok=True)
        return None
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow((_COLUMN, "line", "code", "message"))
        writer.writerows((user.user_id, user.line, code, message) for user, code, message in summary.rejects)
    partial.replace(path)
    return path


def _shown(options: ExecuteOptions, summary: Summary) -> str:
    rejected = len(summary.rejects)
    if options.dry_run:
        return f"{summary.read:,} users, {rejected:,} rejected. Nothing was sent."
    text = f"{summary.read:,} users, {summary.started:,} started, {rejected:,} rejected."
    if summary.repeated:
        text += f" {summary.repeated:,} bulks were sent before and started nobody again; --again starts them."
    return text
