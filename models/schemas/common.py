"""Schemas that belong to no resource: pages, problems, health, and the codec server."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field

from models.schemas.fields import RequestSchema, ResponseSchema

Item = TypeVar("Item")


class Pagination(ResponseSchema):
    """The position of a page in its list."""

    limit: int = Field(description="The maximum number of items in a page.")
    next_cursor: str | None = Field(description="Send this as `cursor` for the next page; null on the last.")


class Page(ResponseSchema, Generic[Item]):
    """One page of a list."""

    data: list[Item]
    pagination: Pagination


class FieldProblem(ResponseSchema):
    """One error in the content. It never repeats the value."""

    pointer: str = Field(
        description="JSON pointer (RFC 6901) into the body; `/query/...`, `/path/...` and `/header/...` "
        "for other parts of the request.",
        examples=["/events/3/user_id"],
    )
    code: str = Field(description="A stable code.", examples=["required"])
    message: str = Field(description="What is required, for people.", examples=["is required"])


class Problem(ResponseSchema):
    """Problem details (RFC 9457): the form of every error."""

    type: str = Field(description="Identifies the kind of problem.", examples=["urn:perennial:problem:forbidden"])
    title: str
    status: int
    detail: str
    code: str = Field(description="A stable code to branch on.", examples=["forbidden"])
    request_id: str = Field(description="The same as the header X-Request-Id.")
    errors: list[FieldProblem] | None = Field(default=None, description="For validation errors only.")


class Live(ResponseSchema):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Check(ResponseSchema):
    """One dependency."""

    status: Literal["ok", "unavailable"]


class Reason(ResponseSchema):
    """One reason why the platform is degraded."""

    code: str = Field(description="A stable code.", examples=["projector_stands_still"])
    detail: str = Field(description="What is wrong, for people.")


class LagView(ResponseSchema):
    """The events of the log that a consumer has not read in one shard."""

    consumer: str = Field(examples=["projector"])
    shard: int
    seconds: float = Field(description="The age of the oldest.")
    events: int = Field(description="At most 10,000 are counted.")


class HolderView(ResponseSchema):
    """The session of Postgres that holds the log's horizon back: no consumer reads past its transaction."""

    application: str = Field(description="Its `application_name`.", examples=["psql"])
    state: str | None = Field(
        description="As in `pg_stat_activity`; null if the tables' owner may not read it.",
        examples=["idle in transaction"],
    )
    since: datetime | None = Field(description="The start of its transaction; null as above.")


class Ready(ResponseSchema):
    """Whether the process can work, the state of each dependency, and why work doesn't progress."""

    status: Literal["ready", "degraded", "unready"] = Field(
        description="`degraded`: the API takes requests, but some work behind it doesn't progress."
    )
    checks: dict[str, Check]
    reasons: list[Reason] | None = Field(default=None, description="Absent if there are none.")
    lag: list[LagView] | None = Field(
        default=None,
        description="Each consumer and shard of the event log with events that it has not read. Absent if there "
        "are none.",
    )
    held_by: HolderView | None = Field(
        default=None, description="Absent unless events wait for a transaction that is open for two seconds."
    )


class EncodedPayloads(RequestSchema):
    """Encrypted payloads in the JSON form of their protobuf: metadata and data in base64."""

    payloads: Annotated[list[dict[str, Any]], Field(max_length=10_000)]


class DecodedPayloads(ResponseSchema):
    """The payloads in their order, decrypted."""

    payloads: list[dict[str, Any]]
