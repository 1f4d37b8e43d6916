"""What a callback is called in Temporal, and what it is given."""

from __future__ import annotations

from models.temporal.execution import TemporalPayload

CALLBACK = "callback"


class CallbackDue(TemporalPayload):
    """An instance whose end is to be told."""

    instance_id: str
    ending: int
    """The how-manyth end it is, from 0: a replay gives an instance another one."""

    @property
    def message_id(self) -> str:
        """The same at every try, and another one for another end."""
        return f"msg_{self.instance_id}_{self.ending}"


def callback_workflow_id(due: CallbackDue) -> str:
    """The one builder of Temporal workflow ids for callbacks."""
    return f"{CALLBACK}/{due.instance_id}/{due.ending}"
