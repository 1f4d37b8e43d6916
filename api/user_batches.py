"""Batches of profiles: each item judged on its own, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.audit import names_of
from api.validation import item_errors
from models.errors import FieldError
from models.schemas.fields import UnusableItem, is_user_id
from models.schemas.users import ItemError, UserBatchAnswer, UserBatchResult, UserUpsert
from store.users.batches import Outcome

_YIELD_EVERY = 50
"""Items to check before other requests get their turn."""


@dataclass(frozen=True)
class CheckedItem:
    """An item that is a patch to carry out, or is rejected for its errors."""

    user_id: str | None
    patch: Mapping[str, Any] | None
    errors: Sequence[FieldError] = ()


async def check_items(items: Sequence[Any]) -> list[CheckedItem]:
    """Validate each item on its own."""
    checked = []
    for index, item in enumerate(items):
        checked.append(_check(item))
        if index % _YIELD_EVERY == _YIELD_EVERY - 1:
            await asyncio.sleep(0)
    return checked


def _check(item: Any) -> CheckedItem:
    if isinstance(item, UnusableItem):
        return CheckedItem(_usable_id(item.item), None, item.errors)
    try:
        patch = UserUpsert.model_validate(item).model_dump(exclude_unset=True)
    except ValidationError as error:
        return CheckedItem(_usable_id(item), None, item_errors(error))
    return CheckedItem(patch["user_id"], patch)


def _usable_id(item: Any) -> str | None:
    """The id of a rejected item, where it has one that can be repeated."""
    user_id = item.get("user_id") if isinstance(item, dict) else None
    return user_id if isinstance(user_id, str) and is_user_id(user_id) else None


def batch_answer(checked: Sequence[CheckedItem], outcomes: Sequence[Outcome]) -> UserBatchAnswer:
    """The answer; ``outcomes`` are those of the items that were not rejected beforehand, in their order."""
    remaining = iter(outcomes)
    results = [
        _result(index, item.user_id, Outcome(errors=tuple(item.errors)) if item.patch is None else next(remaining))
        for index, item in enumerate(checked)
    ]
    by_status = [result.status for result in results]
    return UserBatchAnswer(
        created=by_status.count("created"),
        updated=by_status.count("updated"),
        rejected=by_status.count("rejected"),
        unchanged=sum(result.status == "updated" and not result.changed for result in results),
        results=results,
    )


def accessed(patches: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whom a batch has written, by its answer, and the names of what it writes, for the audit log."""
    return {
        "subjects": [result["user_id"] for result in results if result["status"] != "rejected"],
        "fields": {name for patch in patches for name in names_of(patch)},
    }


def counts(answer: UserBatchAnswer) -> dict[str, int]:
    """How many became what, for the audit log."""
    return {"created": answer.created, "updated": answer.updated, "rejected": answer.rejected}


def _result(index: int, user_id: str | None, outcome: Outcome) -> UserBatchResult:
    status = "rejected" if outcome.errors else "created" if outcome.created else "updated"
    errors = [ItemError(**vars(error.below(f"/users/{index}"))) for error in outcome.errors]
    return UserBatchResult(index=index, user_id=user_id, status=status, changed=outcome.changed, errors=errors)
