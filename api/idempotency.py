"""`Idempotency-Key`: a repeated request gets the first answer again, and takes effect once.

With one transaction (`POST /users`, `/users/batch`)::

    claim = await idempotency.claim(connection)
    if claim.replay:
        return claim.replay
    ...                                          # the work, or only a read if claim.forgotten
    response = json_response(...)
    await idempotency.keep(connection, claim, response, subject=user_id)
    return response

A crash before the commit leaves neither claim nor work; after it, both are there. A concurrent request with the
same key waits in ``claim`` for that commit and repeats the answer. If it is rolled back, the waiting request does
the work. Errors are never kept: they roll the claim back.

With two transactions, if an effect outside Postgres comes between them (`execute`)::

    async with audit.transaction() as connection:
        claim = await idempotency.claim(connection)
        if claim.replay:
            return claim.replay
        ...                                      # insert the instance, named after claim.token
    ...                                          # start it; its name makes this idempotent
    async with resources.database.transaction() as connection:
        await idempotency.keep(connection, claim, response, subject=user_id)

A crash before the first commit leaves nothing. A crash between the two leaves the claim without an answer: a retry
finds no replay and the same ``claim.token``. It inserts nothing (the name is taken), and starts the instance
unless it has started. Two concurrent requests may both get that far; the first answer is kept. After the second
commit every retry repeats it.

If the person refuses an attribute, removes one, or withdraws a consent, that transaction deletes the bodies of the
person's stored answers (:func:`store.idempotency.forget`). A repeated request then still takes no effect. It gets
the same status and `Location`, with the present state.
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
_REPLAYED = "Idempotency-Replayed"
_KEPT_HEADERS = ("location", "etag", "content-type")
_TOKEN_BYTES = 16


@dataclass(frozen=True)
class RequestClaim:
    """Whether a request repeats an answer or does its work.

    ``forgotten`` means that the request repeats an answer whose body has been deleted: it must take no effect.
    ``token`` is 22 characters of base64url, from which the id of a new resource is made. It is the same for every
    repetition of the request under its key, and random without a key.
    """

    token: str
    replay: Response | None
    held: store.Claim | None

    @property
    def forgotten(self) -> bool:
        return self.held is not None and self.held.forgotten

    @property
    def repeated(self) -> bool:
        """Whether the request has been answered before."""
        return self.replay is not None or self.forgotten


@dataclass(frozen=True)
class Idempotency:
    """The `Idempotency-Key` of one request. Without that header nothing is claimed or kept."""

    cipher: Cipher
    key_id: str
    idempotency_key: str | None
    fingerprint: bytes

    async def claim(self, connection: Connection) -> RequestClaim:
        """Claim the key in the transaction. Raises the errors of :func:`store.idempotency.claim`."""
        if self.idempotency_key is None:
            return RequestClaim(secrets.token_urlsafe(_TOKEN_BYTES), None, None)
        held = await store.claim(
            connection,
            self.cipher,
            key_id=self.key_id,
            idempotency_key=self.idempotency_key,
            fingerprint=self.fingerprint,
        )
        return RequestClaim(held.token, _replay(held.replay), held)

    async def keep(
        self, connection: Connection, claim: RequestClaim, response: Response, *, subject: str | None
    ) -> None:
        """Keep the answer, encrypted with the data key of ``subject``, or with the service's own for None.

        The answer of a forgotten claim is marked as a repetition instead, and not kept.
        """
        if claim.held is None:
            return
        if claim.forgotten:
            response.headers[_REPLAYED] = "true"
            return
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        answer = StoredAnswer(response.status_code, headers, bytes(response.body))
        await store.keep(connection, self.cipher, claim.held, answer, subject=subject)


def _replay(answer: StoredAnswer | None) -> Response | None:
    if answer is None:
        return None
    return Response(answer.body, answer.status, {**answer.headers, _REPLAYED: "true"})


async def _idempotency(
    request: Request,
    caller: Caller,
    resources: ResourcesOf,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias=_HEADER,
            description="1 to 255 printable ASCII characters. For 24 hours the same request with the same key "
            "gets the first answer again; another request with that key is 422.",
        ),
    ] = None,
) -> Idempotency:
    given = request.headers.getlist(_HEADER)
    if given and (len(given) > 1 or _FORM.fullmatch(given[0]) is None):
        raise InvalidIdempotencyKeyError
    # Without the header nothing is compared.
    body = await request.canonical() if idempotency_key is not None and isinstance(request, JsonRequest) else b""
    path = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
    fingerprint = resources.cipher.fingerprint(request.method.encode(), path.encode(), body)
    return Idempotency(resources.cipher, caller.key_id, idempotency_key, fingerprint)


IdempotencyOf = Annotated[Idempotency, Depends(_idempotency)]
"""The `Idempotency-Key` of the request; the module's docstring shows how to use it."""
