"""Parameters whose values a start by trigger takes from the event."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args

import orjson
from pydantic import BaseModel, Field, ValidationError

from models.errors import ParameterMissingError

FROM_TRIGGER = "from_trigger"
"""The keyword of a parameter's JSON Schema that names the event's property."""

logger = logging.getLogger("perennial.triggers")


def from_trigger(event_property: str, *, default: Any = None) -> Any:
    """The default of a parameter that takes its value from the trigger.

    For declarations: ``order_id: str | None = from_trigger("order_id")``. A request gives the value itself. A
    property that is missing leaves the parameter at its ``default``. So does a value that doesn't fit its type, if
    the parameter may be null; otherwise the event starts nothing.
    """
    return Field(default=default, json_schema_extra={FROM_TRIGGER: event_property})


def taken_from_trigger(model: type[BaseModel]) -> dict[str, str]:
    """The parameters that take their values from the trigger, with the names of the event's properties."""
    extras = {name: field.json_schema_extra for name, field in model.model_fields.items()}
    return {
        name: str(extra[FROM_TRIGGER])
        for name, extra in extras.items()
        if isinstance(extra, dict) and FROM_TRIGGER in extra
    }


def parameters_from(model: type[BaseModel], properties: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an instance that an event with these properties starts, as JSON values.

    Values aren't converted to a parameter's type: exits compare them with the properties of later events. Raises
    :class:`ParameterMissingError` for a value that doesn't fit a parameter which may not be null.
    """
    taken = taken_from_trigger(model)
    given = {name: properties[held] for name, held in taken.items() if held in properties}
    misfits = _misfits(model, given)
    refused = sorted(name for name in misfits if not _may_be_null(model, name))
    if refused:
        raise ParameterMissingError(refused, "the event's property doesn't have the type of this parameter")
    for name in misfits:
        logger.info("a property of the trigger doesn't fit its parameter", extra={"parameter": name})
    fitting = {name: value for name, value in given.items() if name not in misfits}
    return model.model_validate_json(orjson.dumps(fitting), strict=True).model_dump(mode="json")


def _misfits(model: type[BaseModel], given: Mapping[str, Any]) -> set[str]:
    try:
        model.model_validate_json(orjson.dumps(given), strict=True)
    except ValidationError as error:
        return {
            str(each["loc"][0]) for each in error.errors(include_url=False, include_input=False) if each["loc"]
        }
    return set()


def _may_be_null(model: type[BaseModel], name: str) -> bool:
    annotation = model.model_fields[name].annotation
    return annotation in (Any, None) or NoneType in get_args(annotation)
