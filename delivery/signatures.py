"""Signatures of outgoing requests, as in Standard Webhooks 1.0.

The signed text is ``id.timestamp.body``. The signature is ``v1,`` and the base64 of its HMAC-SHA256. A secret is
``whsec_`` and the base64 of 24 to 64 bytes. Source: https://www.standardwebhooks.com (specification 1.0).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import datetime

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Headers of one attempt, made at ``at``. Retries keep ``message_id``."""
    timestamp = str(int(at.timestamp()))
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    text = b".".join((message_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
