"""Payloads of Temporal on the wire, as its Web UI sends them to a codec server."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from models.schemas.fields import RequestSchema, ResponseSchema


class EncodedPayloads(RequestSchema):
    """Payloads in the JSON form of their protobuf: metadata and data in base64."""

    payloads: Annotated[list[dict[str, Any]], Field(max_length=10_000)]


class DecodedPayloads(ResponseSchema):
    """The same payloads, in their order, opened."""

    payloads: list[dict[str, Any]]
