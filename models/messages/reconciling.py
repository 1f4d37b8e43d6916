"""What the reconciler is called, and what its looks tell."""

from __future__ import annotations

from datetime import datetime

from models.messages.execution import TemporalMessage

RECONCILER = "reconciler"
RECONCILER_ID = "system/reconciler"


class Look(TemporalMessage):
    """From when on Temporal's closed runs are looked at; None: all that are kept."""

    since: datetime | None = None


class Looked(TemporalMessage):
    """Up to when they have been looked at, and how many instances were ended by it."""

    until: datetime
    ended: int = 0
