"""RFC 9457 problem details, as every error is answered."""

from __future__ import annotations

from pydantic import Field

from models.schemas.fields import ResponseSchema


class FieldProblem(ResponseSchema):
    """One thing wrong with the content. It never repeats what was sent."""

    pointer: str = Field(
        description="JSON pointer (RFC 6901) into the body; `/query/...`, `/path/...` and `/header/...` "
        "where the fault is not in the body.",
        examples=["/events/3/user_id"],
    )
    code: str = Field(description="A stable word.", examples=["required"])
    message: str = Field(description="What is wanted, for a person.", examples=["is required"])


class Problem(ResponseSchema):
    """An error."""

    type: str = Field(description="Identifies the kind of problem.", examples=["urn:perennial:problem:forbidden"])
    title: str
    status: int
    detail: str
    code: str = Field(description="A stable word to branch on.", examples=["forbidden"])
    request_id: str = Field(description="The same as the header X-Request-Id.")
    errors: list[FieldProblem] | None = Field(default=None, description="With validation failures only.")
