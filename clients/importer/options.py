"""The options of an import, the kinds of data, and the error that stops an import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class ImportStoppedError(Exception):
    """The import can't start or continue. The text is one sentence and holds no value of a row."""


@dataclass(frozen=True)
class ImportOptions:
    """Options of `perennial import`."""

    file: Path
    """CSV (`.csv`), TSV (`.tsv`) or NDJSON (`.ndjson`, `.jsonl`)."""
    mapping: Path
    """A TOML file (docs/importing.md)."""
    url: str = ""
    """Address of the API, such as `http://127.0.0.1:8080`. Not needed for a dry run."""
    key: str = ""
    """An API key of role admin or integrator. Not needed for a dry run."""
    shift_days: int = 0
    """Days to add to times with `shift = true`."""
    batch_size: int | None = None
    """Items per request. None is the route's limit."""
    dry_run: bool = False
    """Read and map all rows, and send nothing."""
    encoding: str | None = None
    """The file's encoding. None is the mapping's, or else UTF-8."""
    timezone: str | None = None
    """IANA name of the zone of times without an offset. None is the mapping's."""
    ca_file: Path | None = None
    """Certificates to trust in addition to the system's."""


class ItemStatus(StrEnum):
    """The API's result for an item."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


class IfRecorded(StrEnum):
    """The effect of a grant in the file on a recorded decision of the person, such as a withdrawal."""

    KEEP = "keep"
    REPLACE = "replace"


def with_kept_decisions(path: str, purposes: Iterable[str]) -> str:
    """A route's path, with the purposes for which the API keeps recorded decisions."""
    query = "&".join(f"keep_recorded={purpose}" for purpose in purposes)
    return f"{path}?{query}" if query else path


@dataclass(frozen=True)
class Kind:
    """A kind of data with its batch route, which returns a result for each item. `KINDS` lists them."""

    name: str
    """In the mapping file and in the summary: "2,357 profiles"."""
    path: str
    """The batch route."""
    member: str
    """Name of the list in the request's body. Pointers of errors start with it (`/users/3/email`)."""
    identity: str
    """A required attribute. Items with the same value are sent in the file's order."""
    needed: tuple[str, ...]
    """The fields that every mapping must have."""
    time: str
    """The attribute that is a time, also if the mapping names no type for it."""
    max_batch: int
    """Maximum number of items in a request."""
    labels: Mapping[ItemStatus, str]
    """Names of the results in the summary."""
    idempotency_key: bool = False
    """Whether the route accepts an `Idempotency-Key`."""
    consents_first: bool = False
    """Whether consents are granted before the items are sent; else afterwards."""
    may_be_historical: bool = False
    """Whether a batch can be marked as old data."""


PERSON = "user_id"
"""The field with the user's id, in every kind."""

KINDS: Mapping[str, Kind] = {
    "profiles": Kind(
        name="profiles",
        path="/users/batch",
        member="users",
        identity="user_id",
        needed=("user_id",),
        time="signup_date",
        max_batch=1000,
        labels={ItemStatus.CREATED: "created", ItemStatus.UPDATED: "updated", ItemStatus.UNCHANGED: "unchanged"},
        idempotency_key=True,
    ),
    "events": Kind(
        name="events",
        path="/events/batch",
        member="events",
        identity="event_id",
        needed=("event_id", "user_id", "event_type", "timestamp", "session_id"),
        time="timestamp",
        max_batch=2000,
        labels={ItemStatus.ACCEPTED: "accepted", ItemStatus.DUPLICATE: "duplicates"},
        consents_first=True,
        may_be_historical=True,
    ),
}
