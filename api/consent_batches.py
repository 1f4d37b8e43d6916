"""Items and answers of `POST /consents/batch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from api.profiles import CheckedItem
from models.errors import FieldError, PerennialError, UserErasedError, UserNotFoundError
from models.rules.ingest import USER_ERASED, USER_UNKNOWN
from models.schemas.consents import ConsentBatchAnswer, ConsentBatchResult, ConsentItem
from models.schemas.fields import UnusableItem
from models.schemas.users import ItemError
from models.vocabulary import Purpose
from store.consents.consents import ConsentDecision

_NO_USER: Mapping[type[PerennialError], Sequence[FieldError]] = {
    UserNotFoundError: USER_UNKNOWN.errors,
    UserErasedError: USER_ERASED.errors,
}


def read_item(item: Any) -> Mapping[str, Any]:
    """The fields of a valid item, with defaults. Raises ValidationError."""
    return ConsentItem.model_validate(item).model_dump()


def decision_of(fields: Mapping[str, Any]) -> tuple[str, ConsentDecision]:
    """The user and the decision of a valid item."""
    return fields["user_id"], ConsentDecision(**{name: fields[name] for name in fields if name != "user_id"})


def batch_answer(
    items: Sequence[Any], checked: Sequence[CheckedItem], outcomes: Sequence[bool | type[PerennialError]]
) -> ConsentBatchAnswer:
    """The answer to a batch. ``outcomes`` are those of the valid items, in their order."""
    remaining = iter(outcomes)
    results = []
    for index, (item, read) in enumerate(zip(items, checked, strict=True)):
        outcome = next(remaining) if read.patch is not None else False
        errors = read.errors if isinstance(outcome, bool) else _NO_USER[outcome]
        status = "rejected" if errors else "changed" if outcome else "unchanged"
        results.append(
            ConsentBatchResult(
                index=index,
                user_id=read.user_id,
                purpose=_usable_purpose(item),
                status=status,
                errors=[ItemError(**vars(error.with_prefix(f"/consents/{index}"))) for error in errors],
            )
        )
    statuses = [result.status for result in results]
    counts = {status: statuses.count(status) for status in ("changed", "unchanged", "rejected")}
    return ConsentBatchAnswer(**counts, results=results)


def _usable_purpose(item: Any) -> Purpose | None:
    """The purpose of an item, rejected ones included, if it is one."""
    if isinstance(item, UnusableItem):
        item = item.item
    purpose = item.get("purpose") if isinstance(item, dict) else None
    return Purpose(purpose) if isinstance(purpose, str) and purpose in list(Purpose) else None
