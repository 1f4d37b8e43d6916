"""The one place where the outbox's workflow has its names."""

from __future__ import annotations

OUTBOX = "outbox"
OUTBOX_WORKFLOW_ID = "system/outbox"
