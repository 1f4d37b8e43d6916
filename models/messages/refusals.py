"""The one place where the refusals' workflow has its names."""

from __future__ import annotations

REFUSALS = "refusals"
REFUSALS_WORKFLOW_ID = "system/refusals"
