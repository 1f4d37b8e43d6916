"""How answers are rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from api.validation import LISTED_ERRORS
from models.errors import InvalidContentError, PerennialError
from models.schemas.problems import FieldProblem, Problem

PROBLEM_MEDIA_TYPE = "application/problem+json"
_PROBLEM_TYPE = "urn:perennial:problem:"


def json_response(
    document: BaseModel | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer; rendered once, here, so that what is kept for a repeat is what went out."""
    body = document.model_dump_json().encode() if isinstance(document, BaseModel) else orjson.dumps(document)
    return Response(body, status, headers, media_type="application/json")


def problem(error: PerennialError, request_id: str) -> Problem:
    """The problem details of an error; of very many validation errors only the first are listed."""
    errors = None
    if isinstance(error, InvalidContentError):
        errors = [FieldProblem(**vars(each)) for each in error.errors[:LISTED_ERRORS]]
    return Problem(
        type=_PROBLEM_TYPE + error.code,
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        errors=errors,
    )


def problem_response(error: PerennialError, request_id: str) -> Response:
    """An error as `application/problem+json`."""
    return Response(
        problem(error, request_id).model_dump_json(exclude_none=True).encode(),
        error.status,
        error.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )
