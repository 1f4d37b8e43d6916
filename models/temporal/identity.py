"""Ids and search attributes: not encrypted, so they hold ids and never a person's data."""

from __future__ import annotations

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from models.vocabulary import InstanceStatus

USER = SearchAttributeKey.for_keyword("PerennialUser")
WORKFLOW = SearchAttributeKey.for_keyword("PerennialWorkflow")
STEP = SearchAttributeKey.for_keyword("PerennialStep")
STATUS = SearchAttributeKey.for_keyword("PerennialStatus")

SEARCH_ATTRIBUTES = (USER, WORKFLOW, STEP, STATUS)


def temporal_workflow_id(workflow_id: str, instance_id: str) -> str:
    """The one builder of Temporal workflow ids for instances."""
    return f"{workflow_id}/{instance_id}"


def initial_search_attributes(workflow_id: str, user_id: str) -> TypedSearchAttributes:
    """What an instance can be found by from its start."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(USER, user_id),
            SearchAttributePair(WORKFLOW, workflow_id),
            SearchAttributePair(STATUS, InstanceStatus.RUNNING.value),
        ]
    )
