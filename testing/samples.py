"""Values with which any workflow of the catalogue starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.rules.taxonomy import STANDARD
from workflows.catalog import Definition

TEXT = "sample-1"
_PROPERTIES: Mapping[str, Any] = {"order_id": "o-1", "amount": "19.99", "currency": "EUR", "feature": "search"}


def parameters_of(definition: Definition, *, durations: str | None = None) -> dict[str, Any]:
    """Parameters for a start: a text for each optional one that has none, and ``durations`` for each wait.

    Example::

        at_once = parameters_of(catalog()["renewal_reminder"], durations="PT0S")
    """
    found = {}
    for name, schema in definition.parameter_schema["properties"].items():
        if schema.get("format") == "duration":
            if durations is not None:
                found[name] = durations
        elif schema.get("default") is None and {"type": "string"} in schema.get("anyOf", ()):
            found[name] = TEXT
    return found


def properties_of(event_type: str) -> dict[str, Any]:
    """The properties that a standard event type requires.

    Example::

        run = await runs.trigger(
            customer.user_id, "transaction.purchase_complete", properties_of("transaction.purchase_complete")
        )
    """
    declared = STANDARD.get(event_type)
    required = declared.schema.get("required", ()) if declared else ()
    return {name: _PROPERTIES[name] for name in required}
