"""`POST /workflows/{id}/execute`: starts one instance for one request.

If the API dies, or Temporal doesn't answer:

1. before the instance's row commits: nothing has happened.
2. after it, before the call to Temporal: the row stays without a run. The API shows it as failed (``NotStarted``)
   once Temporal reports that it has no run. A repeated request with the same Idempotency-Key has the same instance
   id, and starts it.
3. Temporal doesn't answer: the API answers 503, and the caller repeats the request. With an Idempotency-Key the
   row stays, as in 2. Without one it is deleted. Temporal may have accepted the start nevertheless. Then the
   workflow's first recording finds no row, and ends the run before any effect
   (:func:`store.instances.attempts.begin_attempt`).
4. after the call, before the answer: the instance runs, and a repeated request with the same key returns it.

For crashes between the two transactions see :mod:`api.idempotency`.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends, Header
from pydantic import ValidationError
from starlette.responses import Response
from temporalio.client import Client

from api.audit import Audit
from api.idempotency import Idempotency
from api.instances import Instances, InstanceState, instance_view, location
from api.resources import TEMPORAL_DOWN, Resources
from api.responses import json_response
from delivery.signatures import new_secret
from delivery.temporal import start_instance
from models.errors import (
    AlreadyRunError,
    AlreadyRunningError,
    FieldError,
    InstanceNotFoundError,
    InvalidContentError,
    TemporalUnavailableError,
)
from models.instances import StoredCallback, StoredInstance
from models.rules.outbound_urls import url_error
from models.schemas.validation import field_errors
from models.schemas.workflows import ExecutedView, ExecuteRequest
from store.api_keys import AuthenticatedKey
from store.instances import starting, transitions
from store.instances.starting import NewCallback, StartRequest, Stored, WindowOpenError
from workflows.catalog import Definition

LONGEST_WAIT_SECONDS = 60
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)
_EXISTING = re.compile(r"(?:^|[,;\s])return\s*=\s*\"?existing\"?\s*(?:$|[,;])", re.IGNORECASE)
_INSTANCE_IDS = uuid.UUID("0f2f5c7a-3a39-4c58-9a55-2b6d3f8a4e10")

logger = logging.getLogger("perennial.execute")


@dataclass(frozen=True)
class Preferences:
    """The header `Prefer` (RFC 7240)."""

    wait: float
    """Seconds to wait for the end."""
    existing: bool
    """Whether to answer with the instance that prevents the start."""


async def _preferences(
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=N`: hold the answer back for up to N seconds (RFC 7240). `return=existing`: answer "
            "with the instance that prevents the start."
        ),
    ] = None,
) -> Preferences:
    match, existing = _WAIT.search(prefer or ""), _EXISTING.search(prefer or "")
    wait = float(min(int(match[1]), LONGEST_WAIT_SECONDS)) if match else 0.0
    return Preferences(wait, existing is not None)


PreferencesOf = Annotated[Preferences, Depends(_preferences)]


@dataclass(frozen=True)
class Execution:
    """A request to run one workflow."""

    definition: Definition
    request: ExecuteRequest
    caller: AuthenticatedKey
    resources: Resources
    audit: Audit
    idempotency: Idempotency
    preferences: Preferences


async def execute(execution: Execution) -> Response:
    """Start an instance, or repeat the stored answer of the Idempotency-Key.

    Raises the errors of :data:`store.instances.starting.INELIGIBLE`; for an open window
    :class:`AlreadyRunningError` or :class:`AlreadyRunError`.
    """
    try:
        return await _execute(execution)
    except WindowOpenError as error:
        return await _existing(execution, error.instance_id)


async def _existing(execution: Execution, instance_id: str) -> Response:
    """Answer with the instance that prevents the start, or refuse the start."""
    workflow_id = execution.definition.workflow_id
    try:
        state = await Instances.of(execution.resources).get(workflow_id, instance_id)
    except InstanceNotFoundError:  # retention has deleted it
        raise AlreadyRunError from None
    place = location(workflow_id, instance_id)
    if execution.preferences.existing:
        execution.audit.note(
            fields=["parameters", "variables", "results"],
            details={"workflow_id": workflow_id, "instance_id": instance_id, "existing": True},
        )
        view = instance_view(execution.caller.role, state, execution.resources.settings)
        return json_response(view, 200, {"Location": place, "Preference-Applied": "return=existing"})
    if execution.definition.key:
        raise AlreadyRunningError(place, keyed=True)
    raise AlreadyRunError(place) if state.stored.status.finished else AlreadyRunningError(place)


async def _execute(execution: Execution) -> Response:
    resources, audit = execution.resources, execution.audit
    audit.user_id = execution.request.user_id
    client = await resources.require_temporal()
    async with audit.transaction() as connection:
        claim = await execution.idempotency.claim(connection)
        # A repeated request has the same token, so it can only ever start the same instance.
        instance_id = uuid.uuid5(_INSTANCE_IDS, claim.token).hex
        audit.note(
            fields=["parameters"],
            details={
                "workflow_id": execution.definition.workflow_id,
                "instance_id": instance_id,
                "replayed": claim.repeated,
            },
        )
        if claim.replay:
            return claim.replay
        stored = None
        if not claim.forgotten:
            request = _start_request(execution, instance_id)
            stored = await starting.start(connection, resources.cipher, execution.definition.startable, request)
    if stored is None:
        state = await Instances.of(resources).get(execution.definition.workflow_id, instance_id)
    else:
        state = await _start(execution, client, stored, repeatable=claim.held is not None)
    response = _answer(execution, state, stored.callback_secret if stored else None)
    if claim.held is not None:
        async with resources.database.transaction() as connection:
            await execution.idempotency.keep(connection, claim, response, subject=execution.request.user_id)
    return response


def checked_parameters(definition: Definition, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters with defaults, as JSON values. Raises :class:`InvalidContentError`."""
    try:
        parameters = definition.parameters.model_validate(given)
    except ValidationError as error:
        raise InvalidContentError(_parameter_errors(error, given)) from None
    return parameters.model_dump(mode="json")


def _start_request(execution: Execution, instance_id: str) -> StartRequest:
    """Raises :class:`InvalidContentError` for invalid parameters or a forbidden callback URL."""
    request, callback = execution.request, None
    parameters = checked_parameters(execution.definition, request.parameters)
    if request.callback_url is not None:
        loopback = execution.resources.settings.environment == "embedded"
        if problem := url_error(request.callback_url, loopback=loopback):
            raise InvalidContentError([FieldError("/callback_url", *problem)])
        callback = NewCallback(request.callback_url, new_secret())
    return StartRequest(
        instance_id=instance_id,
        user_id=request.user_id,
        started_by=execution.caller.key_id,
        parameters=parameters,
        max_attempts=request.max_attempts,
        callback=callback,
        again=request.again,
    )


def _parameter_errors(error: ValidationError, given: Mapping[str, Any]) -> list[FieldError]:
    """One error for each value. Pydantic gives one for each type of a union, with the type in its place."""
    messages: dict[tuple[str, str], list[str]] = {}
    for each in error.errors(include_url=False):
        place: list[str | int] = []
        held: Any = given
        for part in each["loc"]:
            inside = isinstance(held, Mapping) and part in held
            inside = inside or (isinstance(held, list) and isinstance(part, int) and part < len(held))
            if not inside and each["type"] != "missing":
                break
            place.append(part)
            held = held[part] if inside else None
        [found] = field_errors([{**each, "loc": place}])
        messages.setdefault((f"/parameters{found.pointer}", found.code), []).append(found.message)
    return [FieldError(pointer, code, " or ".join(texts)) for (pointer, code), texts in messages.items()]


async def _start(execution: Execution, client: Client, stored: Stored, *, repeatable: bool) -> InstanceState:
    """Start the instance in Temporal, and wait for its end as long as the caller prefers.

    Raises :class:`TemporalUnavailableError`. Then the row of a ``repeatable`` instance stays: other requests with
    its Idempotency-Key may have started it, or will.
    """
    resources, new, run_id = execution.resources, stored.new, None
    if not stored.begun:
        try:
            run_id = await start_instance(
                client, resources.settings.task_queue, new, execution.definition.description
            )
        except TEMPORAL_DOWN as error:
            logger.warning("Temporal did not take a start", extra={"error_type": type(error).__name__})
            if not repeatable:
                async with resources.database.transaction() as connection:
                    await transitions.delete_unstarted(connection, new.instance_id)
            raise TemporalUnavailableError from error
    if execution.preferences.wait:
        finished = await Instances.of(resources).finished_within(
            new.workflow_id, new.instance_id, execution.preferences.wait, resources.stopping
        )
        if finished is not None:
            return finished
    if run_id is None:  # it had begun before this request
        return await Instances.of(resources).get(new.workflow_id, new.instance_id)
    started = StoredInstance.started(new, stored.start_time, run_id)
    if stored.callback_secret is not None:
        started = replace(started, callback=StoredCallback("waiting", 0, None, None))
    return InstanceState(started)


def _answer(execution: Execution, state: InstanceState, callback_secret: str | None) -> Response:
    view = instance_view(execution.caller.role, state, execution.resources.settings)
    if callback_secret is not None:
        view = ExecutedView(**vars(view), callback_secret=callback_secret)
    headers = {"Location": location(view.workflow_id, view.instance_id)}
    if execution.preferences.wait and state.stored.status.finished:
        headers["Preference-Applied"] = "wait"
        return json_response(view, 200, headers)
    return json_response(view, 202, headers)
