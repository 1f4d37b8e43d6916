"""Values with which any workflow of the catalogue starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.rules.parameters import taken_from_trigger
from models.rules.taxonomy import STANDARD
from workflows.catalog import Definition

TEXT = "sample-1"
_PROPERTIES: Mapping[str, Any] = {
    "order_id": "o-1",
    "amount": "19.99",
    "currency": "EUR",
    "feature": "search",
    "from": "active",
    "to": "at_risk",
    "cause": "inactivity",
}


_VALUES: Mapping[str, Any] = {"string": TEXT, "integer": 1, "number": 1, "boolean": True}


def parameters_of(definition: Definition, *, durations: str | None = None) -> dict[str, Any]:
    """Parameters for a start: a value for each one whose default is null, and ``durations`` for each wait.

    Example::

        at_once = parameters_of(catalog()["renewal_reminder"], durations="PT0S")
    """
    found = {}
    for name, schema in definition.parameter_schema["properties"].items():
        types = [each.get("type") for each in schema.get("anyOf", ())]
        if schema.get("format") == "duration":
            if durations is not None:
                found[name] = durations
        elif schema.get("default") is None and types and types[0] in _VALUES:
            found[name] = _VALUES[types[0]]
    return found


def properties_of(event_type: str, definition: Definition | None = None) -> dict[str, Any]:
    """The properties that a standard event type requires, and those from which parameters take their values.

    Example::

        paid = properties_of("transaction.purchase_complete")
        run = await runs.trigger(customer.user_id, "post_purchase", "transaction.purchase_complete", paid)
    """
    declared = STANDARD.get(event_type)
    required = declared.schema.get("required", ()) if declared else ()
    found = {name: _PROPERTIES[name] for name in required}
    if definition is not None:
        values = parameters_of(definition)
        taken = taken_from_trigger(definition.parameters)
        found |= {name: values[parameter] for parameter, name in taken.items() if parameter in values}
    return found
