"""Items in groups that fit one request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from clients.importer.items import Item, Refused

MAX_BYTES = 2 * 1024 * 1024
"""A request's body at most, unless a single item is larger: a quarter of what the API takes by default."""

Batch = tuple[Item, ...]


def batches(
    items: Iterable[Item | Refused], size: int, refuse: Callable[[Refused], None], max_bytes: int = MAX_BYTES
) -> Iterator[Batch]:
    """Items in order, ``size`` at most and ``max_bytes`` of JSON at most together.

    ``refuse`` is told of what can't be sent, in passing.
    """
    batch: list[Item] = []
    weight = 0
    for item in items:
        if isinstance(item, Refused):
            refuse(item)
            continue
        if batch and (len(batch) >= size or weight + len(item.body) > max_bytes):
            yield tuple(batch)
            batch, weight = [], 0
        batch.append(item)
        weight += len(item.body) + 1
    if batch:
        yield tuple(batch)


def request_body(member: str, batch: Batch, *, historical: bool = False) -> bytes:
    """The request's JSON: `{"users": [...]}`; old data is marked as such."""
    mark = b',"historical":true' if historical else b""
    return b'{"%s":[%s]%s}' % (member.encode(), b",".join(item.body for item in batch), mark)
