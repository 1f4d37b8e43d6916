"""What the reconciler is called, and what its looks tell."""

from __future__ import annotations

from datetime import datetime

from models.temporal.execution import TemporalPayload

RECONCILER = "reconciler"
RECONCILER_ID = "system/reconciler"


class ReconcileRequest(TemporalPayload):
    """From when on Temporal's closed runs are looked at; None: all that are kept."""

    since: datetime | None = None
    watching_since: datetime | None = None
    """Since when this Temporal has been looked at; None: from now on."""
    after: str = ""
    """After which instance to go on asking whether Temporal has a history."""


class ReconcileResult(TemporalPayload):
    """Up to when they have been looked at, how many instances that ended, and where the next look goes on."""

    until: datetime
    ended: int = 0
    watching_since: datetime | None = None
    after: str = ""
