"""`POST /workflows/{id}/execute`: from a request to a running instance, once.

The order, and what a crash in between does, is argued in :mod:`api.executions` and :mod:`api.idempotency`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header
from pydantic import ValidationError
from starlette.responses import Response

from api.audit import Audit
from api.executions import Executions, InstanceState, new_instance_id
from api.idempotency import Idempotency, RequestClaim
from api.instances import instance_view, location
from api.resources import Resources
from api.responses import json_response
from api.validation import field_errors
from models.errors import ConsentRequiredError, FieldError, InvalidContentError, WorkflowDisabledError
from models.rules.outside import objection
from models.schemas.workflows import ExecutedView, ExecuteRequest
from models.temporal.starting import exit_requests
from store.api_keys import AuthenticatedKey
from store.connection import Connection
from store.consents import locks
from store.instances import callbacks, instances, waits
from store.instances.instances import NewInstance, Placed
from workflows.catalog import Definition

LONGEST_WAIT_SECONDS = 60
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)


async def _preferred_wait(
    prefer: Annotated[
        str | None, Header(description="`wait=N`: hold the answer back for up to N seconds (RFC 7240).")
    ] = None,
) -> float:
    match = _WAIT.search(prefer) if prefer else None
    return float(min(int(match[1]), LONGEST_WAIT_SECONDS)) if match else 0.0


PreferredWait = Annotated[float, Depends(_preferred_wait)]
"""Seconds that the caller would wait for the end; 0 without the preference."""


@dataclass(frozen=True)
class Admitted:
    """An instance that is stored and may be started."""

    new: NewInstance
    placed: Placed
    callback_secret: str | None


@dataclass(frozen=True)
class Execution:
    """A request to run one workflow."""

    definition: Definition
    request: ExecuteRequest
    caller: AuthenticatedKey
    resources: Resources
    audit: Audit

    def parameters(self) -> dict[str, Any]:
        """The parameters as the workflow takes them; raises :class:`InvalidContentError`."""
        try:
            checked = self.definition.parameters.model_validate(self.request.parameters)
        except ValidationError as error:
            found = field_errors(error.errors(include_url=False))
            raise InvalidContentError([each.below("/parameters") for each in found]) from None
        return checked.model_dump(mode="json")

    def callback_url(self) -> str | None:
        """Where the end is to be told; raises :class:`InvalidContentError` for where nothing is sent to."""
        url = self.request.callback_url
        loopback = self.resources.settings.environment == "embedded"
        if url is not None and (found := objection(url, loopback=loopback)):
            raise InvalidContentError([FieldError("/callback_url", *found)])
        return url

    async def admit(self, connection: Connection, instance_id: str) -> Admitted:
        """Store the instance if it may run; raises what stands in the way."""
        definition, user_id = self.definition, self.request.user_id
        parameters, callback_url = self.parameters(), self.callback_url()
        if definition.purpose is not None:  # its withdrawal may be under way
            await locks.share(connection, [user_id])
        admission = await instances.eligibility(
            connection, self.resources.cipher, definition.workflow_id, user_id, definition.purpose
        )
        if not admission.enabled:
            raise WorkflowDisabledError
        if not admission.consented:
            raise ConsentRequiredError(f"This workflow needs the person's consent to '{definition.purpose}'.")
        new = NewInstance(
            instance_id=instance_id,
            workflow_id=definition.workflow_id,
            user_id=user_id,
            max_attempts=self.request.max_attempts or admission.max_attempts or definition.max_attempts,
            parameters=parameters,
            started_by=self.caller.key_id,
            purpose=definition.purpose,
        )
        placed = await instances.insert(connection, admission.key, new)
        if not placed.begun:
            exits = exit_requests(definition.exits)
            await waits.register_exits(connection, admission.key, new.workflow_id, instance_id, exits)
        secret = None
        if callback_url is not None:
            secret = await callbacks.place(connection, admission.key, instance_id, callback_url)
        return Admitted(new, placed, secret)


async def execute_once(execution: Execution, idempotency: Idempotency, wait: float) -> Response:
    """Carry an execution out, or repeat the answer that its Idempotency-Key has had before."""
    resources, audit = execution.resources, execution.audit
    audit.user_id = execution.request.user_id
    client = await resources.require_temporal()
    executions = Executions(resources.database, resources.cipher, client, resources.settings.task_queue)
    async with audit.transaction() as connection:
        claim = await idempotency.claim(connection)
        instance_id = new_instance_id(claim.token)
        audit.note(
            fields=["parameters"],
            details={
                "workflow_id": execution.definition.workflow_id,
                "instance_id": instance_id,
                "replayed": claim.replay is not None,
            },
        )
        if claim.replay:
            return claim.replay
        admitted = await execution.admit(connection, instance_id)
    new, placed = admitted.new, admitted.placed
    run_id = None
    if not placed.begun:
        run_id = await executions.start(new, execution.definition.description, repeatable=claim.held is not None)
    finished = None
    if wait:
        finished = await executions.finished_within(new.workflow_id, new.instance_id, wait, resources.stopping)
    sight = finished or await executions.started(new, placed.start_time, run_id)
    response = _answer(execution, sight, admitted.callback_secret, status=200 if finished else 202)
    await _keep(execution, idempotency, claim, response)
    return response


def _answer(execution: Execution, sight: InstanceState, secret: str | None, status: int) -> Response:
    view = instance_view(execution.caller.role, sight, execution.resources.settings)
    if secret is not None:
        view = ExecutedView(**vars(view), callback_secret=secret)
    headers = {"Location": location(view.workflow_id, view.instance_id)}
    if status == 200:
        headers["Preference-Applied"] = "wait"
    return json_response(view, status, headers)


async def _keep(execution: Execution, idempotency: Idempotency, claim: RequestClaim, response: Response) -> None:
    if claim.held is not None:
        async with execution.resources.database.transaction() as connection:
            await idempotency.keep(connection, claim, response, subject=execution.request.user_id)
