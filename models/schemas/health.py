"""Health, as probes read it."""

from __future__ import annotations

from typing import Literal

from models.schemas.fields import Answer


class Live(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Check(Answer):
    """One dependency."""

    status: Literal["ok", "unavailable"]


class Ready(Answer):
    """Whether the process can do its work, dependency by dependency."""

    status: Literal["ready", "unready"]
    checks: dict[str, Check]
