"""`Idempotency-Key`: a request that is sent again gets the first answer again, and happens once.

In one transaction (`POST /users`, `/users/batch`)::

    claim = await idempotency.claim(connection)
    if claim.replay:
        return claim.replay
    ...                                          # the work
    response = json_response(...)
    await idempotency.keep(connection, claim, response, subject=user_id)
    return response

A crash before the commit leaves nothing, neither claim nor work. After it, both are there. A concurrent request
with the same key waits in ``claim`` for that commit and repeats the answer; where it is rolled back instead, the
waiting one does the work. Errors are never kept: they roll the claim back.

In two transactions, where something outside Postgres has to happen in between (`execute`)::

    async with resources.database.transaction() as connection:
        claim = await idempotency.claim(connection)
        if claim.replay:
            return claim.replay
        ...                                      # insert the instance, named after claim.token
    ...                                          # start it, idempotent by that name
    async with resources.database.transaction() as connection:
        await idempotency.keep(connection, claim, response, subject=user_id)

A crash before the first commit leaves nothing. Between the two, the claim is there without an answer: a retry
finds no replay but the same ``claim.token``, inserts nothing new (the name is taken) and starts what has started
(no effect), so the effect is still one. Two requests at once may both get that far; the first answer is kept.
After the second commit every retry repeats it.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from starlette.responses import Response

from api.bodies import JsonRequest
from api.dependencies import Caller, ResourcesOf
from models.errors import InvalidIdempotencyKeyError
from privacy.encryption import Cipher
from store import idempotency as store
from store.connection import Connection
from store.idempotency import StoredAnswer

_HEADER = "Idempotency-Key"
_FORM = re.compile(r"[\x20-\x7e]{1,255}")
_KEPT_HEADERS = ("location", "etag", "content-type")
_TOKEN_BYTES = 16


@dataclass(frozen=True)
class RequestClaim:
    """What a request may do: repeat an answer, or its work.

    ``token`` is 22 characters of base64url: the same whenever the same request is sent again under its key, and
    random without a key. What the request makes can be named after it.
    """

    token: str
    replay: Response | None
    held: store.Claim | None


@dataclass(frozen=True)
class Idempotency:
    """The `Idempotency-Key` of one request; without that header all of it does nothing."""

    cipher: Cipher
    key_id: str
    idempotency_key: str | None
    fingerprint: bytes

    async def claim(self, connection: Connection) -> RequestClaim:
        """Claim the key in a transaction; raises what :func:`store.idempotency.claim` raises."""
        if self.idempotency_key is None:
            return RequestClaim(secrets.token_urlsafe(_TOKEN_BYTES), None, None)
        held = await store.claim(
            connection,
            self.cipher,
            key_id=self.key_id,
            idempotency_key=self.idempotency_key,
            fingerprint=self.fingerprint,
        )
        return RequestClaim(held.token, _repeat(held.replay), held)

    async def keep(
        self, connection: Connection, claim: RequestClaim, response: Response, *, subject: str | None
    ) -> None:
        """Keep the answer, encrypted with the key of the person it is about; None: of the service."""
        if claim.held is None:
            return
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        answer = StoredAnswer(response.status_code, headers, bytes(response.body))
        await store.keep(connection, self.cipher, claim.held, answer, subject=subject)


def _repeat(answer: StoredAnswer | None) -> Response | None:
    if answer is None:
        return None
    return Response(answer.body, answer.status, {**answer.headers, "Idempotency-Replayed": "true"})


async def _idempotency(
    request: Request,
    caller: Caller,
    resources: ResourcesOf,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias=_HEADER,
            description="1 to 255 printable ASCII characters. The same key with the same request gives the first "
            "answer again, for 24 hours; with another one it is 422.",
        ),
    ] = None,
) -> Idempotency:
    given = request.headers.getlist(_HEADER)
    if given and (len(given) > 1 or _FORM.fullmatch(given[0]) is None):
        raise InvalidIdempotencyKeyError
    body = request.canonical if isinstance(request, JsonRequest) else b""
    fingerprint = resources.cipher.fingerprint(request.method.encode(), request.url.path.encode(), body)
    return Idempotency(resources.cipher, caller.key_id, idempotency_key, fingerprint)


IdempotencyOf = Annotated[Idempotency, Depends(_idempotency)]
"""The request's `Idempotency-Key`; see this module's text."""
