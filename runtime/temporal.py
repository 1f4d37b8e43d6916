"""The Temporal client, with a pydantic converter and encrypted payloads.

A workflow's history holds no readable payload: :class:`EncryptedPayloads` encrypts every input, result, message,
failure text and stack. The exception is a string whose class sets ``stays_readable``: a text for the Web UI
without personal data.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payload
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
)
from temporalio.service import RetryConfig, RPCError

from runtime.settings import Settings

logger = logging.getLogger("perennial.temporal")

_ENCODING = b"binary/encrypted"
_PUBLIC = "perennial-public"
_NONCE_BYTES = 12

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


class EncryptedPayloads(PayloadCodec):
    """Encrypts payloads with AES-256-GCM. Each holds the id of its key, so keys can be rotated."""

    def __init__(self, current: str, keys: Mapping[str, bytes]) -> None:
        self._current = current
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt payloads, except public and already encrypted ones."""
        return [self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt the results of :meth:`encode`; return others unchanged. Raises ValueError."""
        return [self._decrypt(payload) for payload in payloads]

    def _encrypt(self, payload: Payload) -> Payload:
        if _PUBLIC in payload.metadata or payload.metadata.get("encoding") == _ENCODING:
            return payload
        nonce = os.urandom(_NONCE_BYTES)
        key_id = self._current.encode()
        encrypted = self._ciphers[self._current].encrypt(nonce, payload.SerializeToString(), key_id)
        return Payload(
            metadata={
                "encoding": _ENCODING,
                "encryption-key-id": key_id,
                "encryption-cipher": b"AES-256-GCM",
            },
            data=nonce + encrypted,
        )

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != _ENCODING:
            return payload
        key_id = payload.metadata.get("encryption-key-id", b"")
        cipher = self._ciphers.get(key_id.decode(errors="replace"))
        if cipher is None:
            raise ValueError("a payload was encrypted with an unknown key")
        try:
            plain = cipher.decrypt(payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:], key_id)
        except InvalidTag:
            raise ValueError("an encrypted payload can't be decrypted") from None
        return Payload.FromString(plain)


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
