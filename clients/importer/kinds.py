"""What can be imported, and where it is sent. Another kind of data is another entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Taken(StrEnum):
    """What became of an item."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Kind:
    """A kind of data: one batch route that takes a list and answers with a result for each item."""

    name: str
    """As the mapping file has it, and as people read it: "2,357 profiles"."""
    path: str
    """The batch route."""
    member: str
    """The list's name in the request's body; results point into it (`/users/3/email`)."""
    identity: str
    """The attribute that an item can't be without; items that share it are sent in the file's order."""
    needed: tuple[str, ...]
    """The fields that every mapping must have, the identity among them."""
    max_batch: int
    """How many items one request may carry."""
    outcomes: Mapping[Taken, str]
    """What may become of an item that is taken, and what the summary calls it."""
    idempotency_key: bool = False
    """Whether the route takes an `Idempotency-Key`, so that a lost answer is given again."""
    consents_first: bool = False
    """Whether a person's consents are granted before their items are sent; else after."""
    may_be_historical: bool = False
    """Whether a batch can be marked as old data."""


PERSON = "user_id"
"""The field that says whose an item is, in every kind."""

KINDS: Mapping[str, Kind] = {
    "profiles": Kind(
        name="profiles",
        path="/users/batch",
        member="users",
        identity="user_id",
        needed=("user_id",),
        max_batch=1000,
        outcomes={Taken.CREATED: "created", Taken.UPDATED: "updated", Taken.UNCHANGED: "unchanged"},
        idempotency_key=True,
    ),
    "events": Kind(
        name="events",
        path="/events/batch",
        member="events",
        identity="event_id",
        needed=("event_id", "user_id", "event_type", "timestamp", "session_id"),
        max_batch=2000,
        outcomes={Taken.ACCEPTED: "accepted", Taken.DUPLICATE: "duplicates"},
        consents_first=True,
        may_be_historical=True,
    ),
}
