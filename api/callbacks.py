"""The request that a callback sends, for the OpenAPI document. No route of this API."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header

from models.schemas.workflows import FinishedInstance

router = APIRouter()


@router.post(
    "{$request.body#/callback_url}",
    status_code=204,
    response_description="Any 2xx: the callback is delivered.",
    responses={
        "410": {"description": "No more attempts."},
        "default": {"description": "Tried again for about a day, with the same `webhook-id`."},
    },
)
def instance_finished(
    body: FinishedInstance,
    webhook_id: Annotated[str, Header(description="The same for each attempt.")],
    webhook_timestamp: Annotated[str, Header(description="Seconds since 1970 of the attempt.")],
    webhook_signature: Annotated[
        str,
        Header(description="`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`."),
    ],
) -> None:
    """The instance has ended. The request is a Standard Webhook, signed with the answer's `callback_secret`."""
