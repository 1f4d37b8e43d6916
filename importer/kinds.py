"""What can be imported, and where it is sent. Another kind of data is another entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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


KINDS: Mapping[str, Kind] = {
    "profiles": Kind(name="profiles", path="/users/batch", member="users", identity="user_id"),
}
