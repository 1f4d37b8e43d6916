"""Instances as the edge answers them."""

from __future__ import annotations

from api.executions import Sight
from models.vocabulary import Role
from models.wire.workflows import InstanceView
from runtime.settings import Settings
from store import instance_views
from store.instance_views import TemporalPlace


def instance_view(role: Role, sight: Sight, settings: Settings) -> InstanceView:
    """An instance as a role reads it."""
    place = TemporalPlace(settings.temporal_ui_url, settings.temporal_namespace)
    return instance_views.instance_view(role, sight.stored, place, stale=sight.stale)


def location(workflow_id: str, instance_id: str) -> str:
    """The path of an instance."""
    return f"/workflows/{workflow_id}/instances/{instance_id}"
