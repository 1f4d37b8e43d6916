"""Workflow ids and search attributes. Temporal stores them unencrypted, so they hold no personal data."""

from __future__ import annotations

from temporalio.common import SearchAttributeKey

USER = SearchAttributeKey.for_keyword("PerennialUser")
WORKFLOW = SearchAttributeKey.for_keyword("PerennialWorkflow")
STEP = SearchAttributeKey.for_keyword("PerennialStep")
STATUS = SearchAttributeKey.for_keyword("PerennialStatus")

SEARCH_ATTRIBUTES = (USER, WORKFLOW, STEP, STATUS)


def temporal_workflow_id(workflow_id: str, instance_id: str) -> str:
    return f"{workflow_id}/{instance_id}"
