"""The first responses to requests with an `Idempotency-Key`, stored encrypted for a day."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import bindparam, func, null, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.errors import IdempotencyKeyReusedError, UserErasedError
from models.tables.access import IdempotentAnswer
from privacy.encryption import Cipher
from store.connection import Connection
from store.statements import one_of, parameters, select, statement
from store.users import data_keys

KEPT_HOURS = 24
_BODY = "idempotent_answers.body"


@dataclass(frozen=True)
class StoredAnswer:
    """The first response to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Claim:
    """A request's claim to its key; ``idempotency_key`` is a digest of the header.

    ``replay`` is the stored response, if any. ``token`` is 22 characters of base64url, the same for all requests
    under one claim and unique to it. A resource named after it is created once, even if a client repeats the
    request. ``forgotten`` means that :func:`forget` has deleted the response: a request takes no effect, and its
    answer comes from the present state.
    """

    key_id: str
    idempotency_key: str
    token: str
    replay: StoredAnswer | None
    forgotten: bool = False


_NEW = insert(IdempotentAnswer).values(parameters("key_id", "idempotency_key", "fingerprint"))
_CLAIM = statement(
    _NEW.on_conflict_do_update(
        index_elements=["key_id", "idempotency_key"],
        set_={
            "fingerprint": _NEW.excluded.fingerprint,
            **dict.fromkeys(("subject", "status", "headers", "body"), null()),
            "created_at": func.now(),
        },
        where=col(IdempotentAnswer.created_at) < func.now() - timedelta(hours=KEPT_HOURS),
    ).returning(col(IdempotentAnswer.created_at))
)
_UNDER_THE_KEY = (
    col(IdempotentAnswer.key_id) == bindparam("key_id"),
    col(IdempotentAnswer.idempotency_key) == bindparam("idempotency_key"),
)
_FIND = statement(
    select(
        col(IdempotentAnswer.fingerprint),
        col(IdempotentAnswer.subject),
        col(IdempotentAnswer.status),
        col(IdempotentAnswer.headers),
        col(IdempotentAnswer.body),
        col(IdempotentAnswer.created_at),
    ).where(*_UNDER_THE_KEY)
)


async def claim(
    connection: Connection, cipher: Cipher, *, key_id: str, idempotency_key: str, fingerprint: bytes
) -> Claim:
    """Claim a key for a request, or find the response to the first request under it.

    Waits while another transaction has an uncommitted claim. Replaces a claim older than :data:`KEPT_HOURS`.
    Raises :class:`IdempotencyKeyReusedError` for a different request, and :class:`UserErasedError` if the response
    was about a user who has been erased since.
    """
    idempotency_key = cipher.fingerprint(b"idempotency-key", idempotency_key.encode()).hex()
    while True:
        new = await _CLAIM.fetchval(
            connection, key_id=key_id, idempotency_key=idempotency_key, fingerprint=fingerprint
        )
        row = await _FIND.fetchrow(connection, key_id=key_id, idempotency_key=idempotency_key)
        if row is not None:  # None: retention has deleted it between the two statements
            break
    if row["fingerprint"] != fingerprint:
        raise IdempotencyKeyReusedError
    token = _token(cipher, key_id, idempotency_key, row["created_at"].isoformat())
    if new is not None or row["status"] is None:
        return Claim(key_id, idempotency_key, token, None)
    key = (await data_keys.find(connection, cipher, [row["subject"]])).get(row["subject"])
    if key is None:
        raise UserErasedError
    if row["body"] is None:
        return Claim(key_id, idempotency_key, token, None, forgotten=True)
    body = key.decrypt(_BODY, row["body"], key_id, idempotency_key)
    return Claim(key_id, idempotency_key, token, StoredAnswer(row["status"], row["headers"], body))


def _token(cipher: Cipher, *parts: str) -> str:
    digest = cipher.fingerprint(b"claim", *(part.encode() for part in parts))
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


_KEEP = statement(
    update(IdempotentAnswer)
    .values({name: bindparam(f"new_{name}") for name in ("subject", "status", "headers", "body")})
    .where(*_UNDER_THE_KEY, col(IdempotentAnswer.status).is_(None))
)


async def keep(
    connection: Connection, cipher: Cipher, held: Claim, answer: StoredAnswer, *, subject: str | None
) -> None:
    """Store the response under a claim, unless one is stored.

    It is encrypted with the data key of ``subject``, so that an erasure makes it unreadable. Without a
    subject it is encrypted with the service's own key.
    """
    owner = subject or data_keys.SERVICE_SUBJECT
    if subject is None:
        key = await data_keys.ensure(connection, cipher, owner)
    else:
        key = await data_keys.require(connection, cipher, owner)
    await _KEEP.execute(
        connection,
        key_id=held.key_id,
        idempotency_key=held.idempotency_key,
        new_subject=owner,
        new_status=answer.status,
        new_headers=dict(answer.headers),
        new_body=key.encrypt(_BODY, answer.body, held.key_id, held.idempotency_key),
    )


_FORGET = statement(
    update(IdempotentAnswer)
    .values(body=None)
    .where(one_of(col(IdempotentAnswer.subject), "user_ids"), col(IdempotentAnswer.body).is_not(None))
)


async def forget(connection: Connection, user_ids: Collection[str]) -> None:
    """Delete the stored responses about users, in the transaction in which they refuse or withdraw something.

    The claims stay, so a repeated request still takes no effect. Responses to batches hold no attributes.
    """
    if user_ids:
        await _FORGET.execute(connection, user_ids=list(user_ids))
