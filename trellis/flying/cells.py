"""Workflows that are defined in a notebook's cell.

The SDK's sandbox imports a workflow's module again for each workflow. A cell is in no module that can be imported. So a
workflow from a cell runs without the sandbox, and all others run in it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields

from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner


def from_cells(workflows: Iterable[type]) -> list[type]:
    """Those of the classes that are defined in a cell. A script that is run by Python has a file, and is no cell."""
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) is not None:
        return []
    return [each for each in workflows if each.__module__ == "__main__"]


@dataclass(frozen=True)
class CellRunner(SandboxedWorkflowRunner):
    """The sandbox, but for workflows from a cell."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """As the SDK documents it."""
        if from_cells([det.defn.cls]):
            return UnsandboxedWorkflowRunner().create_instance(det)
        return super().create_instance(det)


def runner_for(workflows: Iterable[type], otherwise: WorkflowRunner) -> WorkflowRunner:
    """The runner with an exception for workflows from cells; without any, or for another runner, what was given."""
    if not isinstance(otherwise, SandboxedWorkflowRunner) or not from_cells(workflows):
        return otherwise
    return CellRunner(**{one.name: getattr(otherwise, one.name) for one in fields(otherwise) if one.init})


def note_on(workflows: Iterable[type]) -> str:
    """A sentence about the workflows that run without the sandbox; empty if there are none."""
    names = [each.__name__ for each in from_cells(workflows)]
    if not names:
        return ""
    return (
        f"{', '.join(names)} is defined in a cell and runs without the SDK's sandbox, so that nothing refuses a call "
        f"such as time.time(). Write the cell to a module with %%writefile to have it checked."
    )
