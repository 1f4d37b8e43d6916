"""Health, as probes read it."""

from __future__ import annotations

from typing import Literal

from models.schemas.fields import ResponseSchema


class Live(ResponseSchema):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Check(ResponseSchema):
    """One dependency."""

    status: Literal["ok", "unavailable"]


class Ready(ResponseSchema):
    """Whether the process can do its work, dependency by dependency."""

    status: Literal["ready", "unready"]
    checks: dict[str, Check]
