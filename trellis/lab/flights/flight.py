"""A flight: somebody's workflows and activities, run with the plugin on the engine's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from temporalio.client import Client

if TYPE_CHECKING:
    from trellis.lab.control_room.widget import ControlRoom
    from trellis.lab.session import Session


class Flight:
    """Workflow types and activity types on one task queue of one namespace, as `Session.fly` runs them.

    `workflow_types` and `activity_types` are the names that Temporal knows; `client` is connected to the flight's
    namespace, with the flight's data converter. `closed`: it no longer works.
    """

    workflows: tuple[type, ...]
    activities: tuple[Callable[..., Any], ...]
    namespace: str
    task_queue: str
    client: Client
    session: Session

    @property
    def workflow_types(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def activity_types(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        raise NotImplementedError

    def start(self, workflow: Any, *args: Any, id: str | None = None, **options: Any) -> str:
        """Start a workflow of this flight and return its id."""
        raise NotImplementedError

    async def result(self, workflow_id: str) -> Any:
        raise NotImplementedError

    def board(self) -> ControlRoom:
        """`session.board` for this flight's workflow types and namespace."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the workers of this flight. Its workflows stay where they are. Safe to call twice."""
        raise NotImplementedError
