"""The needs of Temporal: version, the namespace of instances, its search attributes.

Every function returns the unmet needs; none if all is well. Raises :data:`AWAY` if Temporal doesn't answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from checks.unmet import Unmet, named
from models.temporal.identity import SEARCH_ATTRIBUTES
from runtime.provisioning import has_namespace

AWAY = (RPCError, RuntimeError, TimeoutError)
"""A client that never reached the server raises RuntimeError; one that has lost it raises RPCError."""
NEEDED_VERSION = (1, 28)
"""The version of docker-compose.yml, and the first with priorities of tasks."""
_TIMEOUT = timedelta(seconds=2)
_NUMBERS = re.compile(r"(\d+)\.(\d+)")


async def server(client: Client, needed: tuple[int, int] = NEEDED_VERSION) -> list[Unmet]:
    """The version; a server that doesn't tell one passes."""
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=_TIMEOUT)
    found = _NUMBERS.match(info.server_version)
    if found is None or (int(found[1]), int(found[2])) >= needed:
        return []
    return [
        Unmet(
            "temporal_version",
            f"Temporal is version {info.server_version}; Perennial needs {needed[0]}.{needed[1]} or newer.",
        )
    ]


async def namespace(client: Client) -> list[Unmet]:
    """The namespace and its search attributes."""
    if not await has_namespace(client):
        return [
            Unmet(
                "temporal_namespace",
                f"Temporal has no namespace {client.namespace}; Perennial needs the one that "
                "PERENNIAL_TEMPORAL_NAMESPACE names.",
            )
        ]
    return await _search_attributes(client)


async def skew(client: Client, schedule_id: str, since: float, clock: Callable[[], float] = time.time) -> float:
    """Seconds by which Temporal's clock and ``clock`` certainly differ, by a schedule that was written just now.

    ``since`` is the time of ``clock`` before the schedule was written.
    """
    until = clock()
    found = (await client.get_schedule_handle(schedule_id).describe(rpc_timeout=_TIMEOUT)).info
    written = max(found.created_at, found.last_updated_at or found.created_at).timestamp()
    return max(written - until, since - written, 0.0)


async def _search_attributes(client: Client) -> list[Unmet]:
    request = ListSearchAttributesRequest(namespace=client.namespace)
    try:
        found = await client.operator_service.list_search_attributes(request, timeout=_TIMEOUT)
    except RPCError as error:
        if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED):
            return []  # a hosted Temporal without the operator's interface
        raise
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    lacking = [each.name for each in SEARCH_ATTRIBUTES if found.custom_attributes.get(each.name) != keyword]
    if not lacking:
        return []
    return [
        Unmet(
            "temporal_search_attributes",
            f"Temporal's namespace {client.namespace} lacks {named(lacking)} as search attributes; Perennial "
            f"needs {named([each.name for each in SEARCH_ATTRIBUTES])}, each a Keyword.",
        )
    ]
