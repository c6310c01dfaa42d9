"""Recorded histories replay: a change that would break running orders fails here.

`python -m tests.replay.record` renews them, after a change that is meant to break (and says so in the CHANGELOG).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from trellis.workers import RUNNER
from trellis.workflows.order import OrderWorkflow
from trellis.workflows.shipping import ShippingWorkflow

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def test_there_are_histories_to_replay() -> None:
    """An empty folder would prove nothing."""
    assert len(HISTORIES) >= 10


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    """Today's workflow code makes the same decisions as the code that made the history."""
    replayer = Replayer(workflows=[OrderWorkflow, ShippingWorkflow], workflow_runner=RUNNER)
    await replayer.replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text("utf-8")))
