"""The one place where the refusals' workflow has its names."""

from __future__ import annotations

REDACTION = "redactions"
REDACTION_WORKFLOW_ID = "system/redaction"
