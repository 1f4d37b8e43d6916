"""Recordings of histories."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from runtime.temporal import data_converter
from testing.histories import CODEC
from testing.recording import Course, NotRecordedError, Recording, record
from workflows.catalog import find
from workflows.sandbox import workflow_runner

pytestmark = pytest.mark.slow


async def test_a_course_with_an_event_is_recorded_and_replays_and_is_kept(tmp_path: Path) -> None:
    definition, said = find("onboarding"), list[str]()
    course = Course("active", "wait_for_first_activity", "engagement.page_view")
    await record([definition], Recording(tmp_path, course), said.append)
    [file] = tmp_path.iterdir()
    assert said == [f"{tmp_path}/onboarding-active.json: completed, activated"]
    recorded = file.read_text()
    replayer = Replayer(
        workflows=[definition.implementation],
        workflow_runner=workflow_runner(),
        data_converter=data_converter(CODEC),
    )
    await replayer.replay_workflow(WorkflowHistory.from_json("onboarding/recorded", recorded))
    await record([definition], Recording(tmp_path, course), said.append)
    assert file.read_text() == recorded
    await record([definition], Recording(tmp_path, course, again=True), said.append)
    assert file.read_text() != recorded


async def test_an_instance_that_fails_is_not_recorded(tmp_path: Path) -> None:
    recording = Recording(tmp_path, parameters={"first_activity_within": "nonsense"})
    with pytest.raises(NotRecordedError, match="onboarding failed at no step: ValidationError"):
        await record([find("onboarding")], recording, lambda _: None)
    assert not list(tmp_path.iterdir())
