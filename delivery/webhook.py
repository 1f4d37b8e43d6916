"""Delivers messages by webhook, to a provider of push, text or chat messages that has the user's id.

The request is signed as Standard Webhooks 1.0 defines. `webhook-id` is the message's id, the same at every
attempt. The receiver drops repetitions of it, so an uncertain hand-over is retried. Until then the message stays
`sending`. If its instance is cancelled, it becomes `unconfirmed`, since the receiver may have it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx
import orjson

from delivery.signatures import signed_headers
from delivery.transport import Envelope, HandoverUncertainError, MessageRejectedError

TIMEOUT_SECONDS = 20
_TEMPORARY = frozenset({408, 409, 425, 429})
"""Client errors after which a later attempt may succeed."""
_FROM_GATEWAYS = frozenset({502, 504})
"""Answers of a gateway that may have forwarded the request."""
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
"""Failures before a connection was made."""


class MessageNotAcceptedError(Exception):
    """The endpoint did not accept the message; a later attempt may succeed."""


class WebhookTransport:
    """Posts each message as JSON with the user's id and the rendered text, without an address."""

    drops_repetitions = True

    def __init__(self, url: str, secret: str | None) -> None:
        self._url = url
        self._secret = secret

    async def hand_over(self, envelope: Envelope, about_to: Callable[[], Awaitable[None]]) -> None:
        """See :class:`delivery.transport.Transport`."""
        now = datetime.now(UTC)
        body = orjson.dumps(
            {
                "type": "message.send",
                "timestamp": now.isoformat(),
                "data": {
                    "message_id": envelope.message_id,
                    "user_id": envelope.recipient,
                    "template": envelope.template,
                    "subject": envelope.subject,
                    "body": envelope.body,
                },
            }
        )
        headers = {"content-type": "application/json", **self._webhook_headers(envelope.message_id, now, body)}
        await about_to()
        answer = await self._post(body, headers)
        if answer.is_success:
            return
        if answer.status_code in _FROM_GATEWAYS:
            raise HandoverUncertainError(f"a gateway answered {answer.status_code} for the message endpoint")
        if answer.is_client_error and answer.status_code not in _TEMPORARY:
            raise MessageRejectedError(f"the message endpoint rejected the message with {answer.status_code}")
        raise MessageNotAcceptedError(f"the message endpoint answered {answer.status_code}")

    async def _post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
                return await client.post(self._url, content=body, headers=headers)
        except _NEVER_LEFT:
            raise
        except httpx.RequestError as error:
            kind = type(error).__name__
            raise HandoverUncertainError(
                f"the message endpoint had the message and didn't answer: {kind}"
            ) from error

    def _webhook_headers(self, message_id: str, now: datetime, body: bytes) -> dict[str, str]:
        if self._secret is not None:
            return signed_headers(self._secret, message_id, now, body)
        return {"webhook-id": message_id, "webhook-timestamp": str(int(now.timestamp()))}
