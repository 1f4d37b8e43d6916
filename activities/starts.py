"""The activity that starts another workflow for the user of an instance.

The id of the new instance is a hash of (instance, step), so it starts at most once. If the worker dies:

1. before its row commits: nothing has happened; the next attempt starts it.
2. after that, before Temporal has it: the next attempt finds the row, and starts it in Temporal.
3. after that: Temporal uses the run that it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from delivery.temporal import start_instance
from models.errors import ParameterMissingError
from models.temporal.execution import NewStart, Started
from models.temporal.starting import Startable
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import starting
from store.instances.starting import StartRequest

STARTED_BY = "workflow"


class Starts:
    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        client: Client,
        task_queue: str,
        startables: Mapping[str, tuple[Startable, type[BaseModel]]],
    ) -> None:
        """``startables``: by workflow id, with the model of the parameters."""
        self._database = database
        self._cipher = cipher
        self._client = client
        self._task_queue = task_queue
        self._startables = startables

    @activity.defn(name="instances.start")
    async def start(self, new: NewStart) -> Started:
        """Start an instance as a request does: under its own consent, account, window and switch.

        A refused start is no failure. The step fails for good for an unknown workflow, and for invalid parameters.
        """
        if new.workflow_id not in self._startables:
            raise ApplicationError(
                f"there is no workflow '{new.workflow_id}'", type="UnknownWorkflow", non_retryable=True
            )
        workflow, model = self._startables[new.workflow_id]
        context = new.step_context
        request = StartRequest(
            instance_id=context.idempotency_key,
            user_id=context.user_id,
            started_by=STARTED_BY,
            parameters=_validated(model, new),
        )
        try:
            async with self._database.transaction() as connection:
                stored = await starting.start(connection, self._cipher, workflow, request)
        except ParameterMissingError as error:
            raise _invalid(new, [each.pointer for each in error.errors]) from None
        except starting.INELIGIBLE as error:
            return Started(started=False, reason=starting.NOT_STARTED.get(type(error)))
        if not stored.begun:
            await start_instance(self._client, self._task_queue, stored.new, workflow.description)
        return Started(started=True, instance_id=request.instance_id)


def _validated(model: type[BaseModel], new: NewStart) -> dict[str, object]:
    try:
        return model.model_validate(new.parameters).model_dump(mode="json")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise _invalid(new, ["/parameters/" + "/".join(map(str, each["loc"])) for each in found]) from None


def _invalid(new: NewStart, pointers: Sequence[str]) -> ApplicationError:
    text = f"'{new.workflow_id}' can't start with these parameters: {', '.join(sorted(pointers))}"
    return ApplicationError(text, type="InvalidParameters", non_retryable=True)
