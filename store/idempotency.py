"""The first answers to requests with an `Idempotency-Key`, encrypted, for a day."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.errors import IdempotencyKeyReusedError, UserErasedError
from privacy.encryption import Cipher
from store.connection import Connection
from store.users import data_keys

KEPT_HOURS = 24
_PLACE = "idempotent_answers.body"


@dataclass(frozen=True)
class StoredAnswer:
    """An answer as it went out the first time."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Claim:
    """What a request found under its key, of which only the digest is kept.

    ``replay`` is the answer to repeat, if there is one. ``token`` is the same for every request under the
    same claim and for no other, 22 characters of base64url: what is named after it is made once, however often
    a client sends its request again.
    """

    key_id: str
    idempotency_key: str
    token: str
    replay: StoredAnswer | None


async def claim(
    connection: Connection, cipher: Cipher, *, key_id: str, idempotency_key: str, fingerprint: bytes
) -> Claim:
    """Claim a key for a request, or find what became of the first one under it.

    While another transaction holds the same claim uncommitted, this waits for it. Claims older than
    :data:`KEPT_HOURS` count for nothing. Raises :class:`IdempotencyKeyReusedError` where the request is another
    one, and :class:`UserErasedError` where the answer was about a person who has been erased since.
    """
    idempotency_key = cipher.fingerprint(b"idempotency-key", idempotency_key.encode()).hex()
    while True:
        fresh = await connection.fetchval(
            f"""INSERT INTO idempotent_answers AS a (key_id, idempotency_key, fingerprint) VALUES ($1, $2, $3)
                ON CONFLICT (key_id, idempotency_key) DO UPDATE SET fingerprint = excluded.fingerprint,
                    subject = NULL, status = NULL, headers = NULL, body = NULL, created_at = now()
                WHERE a.created_at < now() - interval '{KEPT_HOURS} hours'
                RETURNING a.created_at""",
            key_id,
            idempotency_key,
            fingerprint,
        )
        row = await connection.fetchrow(
            """SELECT fingerprint, subject, status, headers, body, created_at FROM idempotent_answers
                WHERE key_id = $1 AND idempotency_key = $2""",
            key_id,
            idempotency_key,
        )
        if row is not None:  # else its retention ended between the two statements
            break
    if row["fingerprint"] != fingerprint:
        raise IdempotencyKeyReusedError
    token = _token(cipher, key_id, idempotency_key, row["created_at"].isoformat())
    if fresh is not None or row["status"] is None:
        return Claim(key_id, idempotency_key, token, None)
    key = (await data_keys.find(connection, cipher, [row["subject"]])).get(row["subject"])
    if key is None:
        raise UserErasedError
    body = b"" if row["body"] is None else key.decrypt(_PLACE, row["body"])
    return Claim(key_id, idempotency_key, token, StoredAnswer(row["status"], row["headers"], body))


def _token(cipher: Cipher, *parts: str) -> str:
    digest = cipher.fingerprint(b"claim", *(part.encode() for part in parts))
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


async def keep(
    connection: Connection, cipher: Cipher, held: Claim, answer: StoredAnswer, *, subject: str | None
) -> None:
    """Keep the answer under a claim; the first one stays.

    It is encrypted with the key of the person it is about, and so unreadable once that person is erased; without a
    person, with the service's own.
    """
    owner = subject or data_keys.SERVICE_SUBJECT
    if subject is None:
        key = await data_keys.ensure(connection, cipher, owner)
    else:
        key = await data_keys.require(connection, cipher, owner)
    await connection.execute(
        """UPDATE idempotent_answers SET subject = $3, status = $4, headers = $5, body = $6
            WHERE key_id = $1 AND idempotency_key = $2 AND status IS NULL""",
        held.key_id,
        held.idempotency_key,
        owner,
        answer.status,
        dict(answer.headers),
        key.encrypt(_PLACE, answer.body) if answer.body else None,
    )
