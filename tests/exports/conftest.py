"""The API over a real Postgres."""

from __future__ import annotations

from tests.api.conftest import api, api_settings, app, limiter, no_temporal, resources

__all__ = ["api", "api_settings", "app", "limiter", "no_temporal", "resources"]
