"""The application over a real Postgres, as the tests of the API have it."""

from __future__ import annotations

from tests.api.conftest import api, api_settings, app, limiter, no_temporal, resources

__all__ = ["api", "api_settings", "app", "limiter", "no_temporal", "resources"]
