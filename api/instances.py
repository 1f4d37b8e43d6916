"""Instances as the edge answers them."""

from __future__ import annotations

from functools import cache

from api.executions import InstanceState
from models.schemas.workflows import InstanceView
from models.vocabulary import Role
from privacy.masking import closed_words
from runtime.settings import Settings
from store.instances import views
from store.instances.views import TemporalPlace
from workflows.catalog import catalog


@cache
def known_words(workflow_id: str) -> frozenset[str]:
    """What the workflow's own schema names as choices: no person's words."""
    definition = catalog().get(workflow_id)
    return closed_words(definition.parameter_schema()) if definition else frozenset()


def instance_view(role: Role, sight: InstanceState, settings: Settings) -> InstanceView:
    """An instance as a role reads it."""
    place = TemporalPlace(settings.temporal_ui_url, settings.temporal_namespace)
    known = known_words(sight.stored.workflow_id)
    return views.instance_view(role, sight.stored, place, known, stale=sight.stale)


def location(workflow_id: str, instance_id: str) -> str:
    """The path of an instance."""
    return f"/workflows/{workflow_id}/instances/{instance_id}"
