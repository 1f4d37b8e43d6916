"""Ids and search attributes: not encrypted, so they hold ids and never a person's data."""

from __future__ import annotations

from temporalio.common import SearchAttributeKey

USER = SearchAttributeKey.for_keyword("PerennialUser")
WORKFLOW = SearchAttributeKey.for_keyword("PerennialWorkflow")
STEP = SearchAttributeKey.for_keyword("PerennialStep")
STATUS = SearchAttributeKey.for_keyword("PerennialStatus")

SEARCH_ATTRIBUTES = (USER, WORKFLOW, STEP, STATUS)


def temporal_workflow_id(workflow_id: str, instance_id: str) -> str:
    """The one builder of Temporal workflow ids for instances."""
    return f"{workflow_id}/{instance_id}"
