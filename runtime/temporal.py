"""The Temporal client, with a pydantic converter and encrypted payloads.

A workflow's history holds no readable payload: :class:`EncryptedPayloads` encrypts every input, result, message,
failure text and stack. The exception is a string whose class sets ``stays_readable``: a text for the Web UI
without personal data.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payload
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)
from temporalio.service import RetryConfig, RPCError

from runtime.settings import Settings

logger = logging.getLogger("perennial.temporal")

_ENCODING = b"binary/encrypted"
_CIPHER = b"HKDF-SHA256, AES-256-GCM"
_PURPOSE = b"perennial: a payload of Temporal"
_BOUND_TO = "encryption-bound-to"
_PUBLIC = "perennial-public"
_SALT_BYTES = 32
_NONCE_BYTES = 12
_KEY_BYTES = 32
_TIME_OF_SCHEDULED_RUN = re.compile(r"-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", re.ASCII)
"""Temporal appends it to the workflow id of a schedule."""

RPC_TIMEOUT = timedelta(seconds=5)
"""After this time without a response Temporal counts as unreachable."""


class MarkingPayloadConverter(PydanticPayloadConverter):
    """Marks the payloads of values that set ``stays_readable``, because the codec doesn't see the values."""

    def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
        payloads = super().to_payloads(values)
        for value, payload in zip(values, payloads, strict=True):
            if getattr(value, "stays_readable", False):
                payload.metadata[_PUBLIC] = b"1"
        return payloads


class EncryptedPayloads(PayloadCodec, WithSerializationContext):
    """Encrypts payloads with AES-256-GCM. Each holds the id of its payload key, so payload keys can be rotated.

    Each payload has a key and a nonce of its own, derived by HKDF-SHA256 from the payload key and 32 random
    bytes (RFC 5869). So no number of payloads makes it probable that a key is used twice with one nonce.

    A payload is bound to its namespace and workflow id, which its metadata shows. A worker or client that decodes
    a payload for another workflow gets an error. `/codec/decode` doesn't know the workflow, and decrypts all.
    """

    def __init__(self, current: str, keys: Mapping[str, bytes], place: bytes | None = None) -> None:
        """``place`` is the namespace and workflow id of a workflow; None for a codec of all workflows."""
        self._current = current
        self._keys = keys
        self._place = place

    def with_context(self, context: SerializationContext) -> Self:
        """The codec for the payloads of one workflow, its activities included."""
        place = _place_of(context)
        return self if place is None else type(self)(self._current, self._keys, place)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt payloads, except public and already encrypted ones."""
        return [self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt the results of :meth:`encode`; return others unchanged. Raises ValueError."""
        return [self._decrypt(payload) for payload in payloads]

    def _encrypt(self, payload: Payload) -> Payload:
        if _PUBLIC in payload.metadata or payload.metadata.get("encoding") == _ENCODING:
            return payload
        key_id, place, salt = self._current.encode(), self._place or b"", os.urandom(_SALT_BYTES)
        cipher, nonce = _derived(self._keys[self._current], salt)
        encrypted = cipher.encrypt(nonce, payload.SerializeToString(), _bound_to(key_id, place))
        return Payload(
            metadata={
                "encoding": _ENCODING,
                "encryption-key-id": key_id,
                "encryption-cipher": _CIPHER,
                _BOUND_TO: place,
            },
            data=salt + encrypted,
        )

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != _ENCODING:
            return payload
        key_id, place = payload.metadata.get("encryption-key-id", b""), payload.metadata.get(_BOUND_TO, b"")
        key = self._keys.get(key_id.decode(errors="replace"))
        if key is None or payload.metadata.get("encryption-cipher") != _CIPHER:
            raise ValueError("a payload was encrypted with an unknown key or cipher")
        if self._place not in (None, place):
            raise ValueError("an encrypted payload belongs to another workflow")
        cipher, nonce = _derived(key, payload.data[:_SALT_BYTES])
        try:
            plain = cipher.decrypt(nonce, payload.data[_SALT_BYTES:], _bound_to(key_id, place))
        except InvalidTag:
            raise ValueError("an encrypted payload can't be decrypted") from None
        return Payload.FromString(plain)


def _place_of(context: SerializationContext) -> bytes | None:
    """The namespace and workflow id of a context; one for all runs of a schedule, since they get its payloads."""
    if not isinstance(context, WorkflowSerializationContext | ActivitySerializationContext):
        return None
    if context.workflow_id is None:
        return None
    return f"{context.namespace}/{_TIME_OF_SCHEDULED_RUN.sub('', context.workflow_id)}".encode()


def _derived(key: bytes, salt: bytes) -> tuple[AESGCM, bytes]:
    """The cipher and the nonce of one payload."""
    material = HKDF(SHA256(), _KEY_BYTES + _NONCE_BYTES, salt=salt, info=_PURPOSE).derive(key)
    return AESGCM(material[:_KEY_BYTES]), material[_KEY_BYTES:]


def _bound_to(key_id: bytes, place: bytes) -> bytes:
    """The associated data of a payload."""
    return b"\x00".join((_CIPHER, key_id, place))


def data_converter(codec: PayloadCodec) -> DataConverter:
    """Return the converter for every client, worker and replayer."""
    return dataclasses.replace(
        pydantic_data_converter,
        payload_converter_class=MarkingPayloadConverter,
        payload_codec=codec,
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


async def connect(
    settings: Settings, codec: PayloadCodec, *, interceptors: Iterable[Interceptor] = (), lazy: bool = True
) -> Client:
    """Return a client. A lazy one connects at its first call, so a process can start before Temporal."""
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        tls=settings.temporal_tls,
        data_converter=data_converter(codec),
        interceptors=list(interceptors),
        lazy=lazy,
        retry_config=RetryConfig(max_elapsed_time_millis=4_000, max_interval_millis=1_000),
    )


async def keep_histories(client: Client, period: timedelta) -> bool:
    """Set the namespace's retention of closed workflows; return whether it is set.

    Applies to workflows that close later. Logs a warning if Temporal doesn't respond, or rejects the change, for
    example because a control plane manages namespaces.
    """
    service, wanted = client.workflow_service, Duration()
    wanted.FromTimedelta(period)
    try:
        found = await service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=RPC_TIMEOUT
        )
        if found.config.workflow_execution_retention_ttl != wanted:
            config = NamespaceConfig(workflow_execution_retention_ttl=wanted)
            await service.update_namespace(
                UpdateNamespaceRequest(namespace=client.namespace, config=config), timeout=RPC_TIMEOUT
            )
    except (RPCError, RuntimeError) as error:
        logger.warning(
            "Temporal's retention could not be set",
            extra={"days": period.days, "error_type": type(error).__name__},
        )
        return False
    return True
