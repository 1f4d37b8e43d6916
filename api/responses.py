"""Renders answers, and evaluates conditional requests (RFC 9110, section 13)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from models.errors import InvalidContentError, PerennialError
from models.schemas.common import FieldProblem, Problem
from models.schemas.validation import MOST_LISTED_ERRORS

PROBLEM_MEDIA_TYPE = "application/problem+json"
_PROBLEM_TYPE = "urn:perennial:problem:"
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_TAGS = re.compile(rf"\s*{_TAG.pattern}(\s*,\s*{_TAG.pattern})*\s*")


def json_response(
    document: BaseModel | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer. Its body is bytes, so the answer stored for an `Idempotency-Key` has the same ones."""
    body = document.model_dump_json().encode() if isinstance(document, BaseModel) else orjson.dumps(document)
    return Response(body, status, headers, media_type="application/json")


def problem(error: PerennialError, request_id: str) -> Problem:
    """The problem details (RFC 9457) of an error, with the first :data:`MOST_LISTED_ERRORS` validation errors."""
    errors = None
    if isinstance(error, InvalidContentError):
        errors = [FieldProblem(**vars(each)) for each in error.errors[:MOST_LISTED_ERRORS]]
    return Problem(
        type=_PROBLEM_TYPE + error.code,
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        errors=errors,
    )


def problem_response(error: PerennialError, request_id: str, members: Mapping[str, Any] | None = None) -> Response:
    """An error as `application/problem+json`, with further members."""
    document = problem(error, request_id).model_dump(exclude_none=True) | dict(members or {})
    return Response(orjson.dumps(document), error.status, error.headers, media_type=PROBLEM_MEDIA_TYPE)


def if_match_holds(header: str | None, tags: Collection[str]) -> bool:
    """Whether `If-Match` allows a change: it is absent, `*`, or names a present tag. A weak tag never matches."""
    if header is None:
        return True
    return header.strip() == "*" or any(not weak and tag in tags for weak, tag in _parse_tags(header))


def if_none_match_hits(header: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names the present representation, so that the answer is 304."""
    if header is None:
        return False
    return header.strip() == "*" or any(given == tag for _, given in _parse_tags(header))


def _parse_tags(header: str) -> list[tuple[bool, str]]:
    """The entity tags of a list, each with whether it is weak; none if the header is malformed."""
    if _TAGS.fullmatch(header) is None:
        return []
    return [(bool(weak), f'"{value}"') for weak, value in _TAG.findall(header)]
