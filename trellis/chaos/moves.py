"""How soon orders move again after their worker was killed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from trellis.chaos.arrivals import Arrivals, open_at
from trellis.chaos.house import Break, House
from trellis.chaos.tasks import lost_tasks
from trellis.db.recovering import Recovering
from trellis.logs import order_of
from trellis.workflows.calls import HEARTBEAT


@dataclass(frozen=True)
class Moves:
    """The slowest order after all kills of a run [s]; None where there was no such order.

    others_s: orders without anything in flight, from the moment a new worker worked (0 if others moved them earlier).
    in_flight_s: orders whose step was in flight, from the latest possible end of its heartbeat.
    task_s: orders whose workflow task the killed worker held, from the end of Temporal's timeout for it.
    Where new workers came later than the timeout, both count from the moment a new worker worked.
    """

    others_s: float | None = None
    in_flight_s: float | None = None
    task_s: float | None = None
    orders: int = 0


async def after_kill(house: House, arrivals: Arrivals) -> Moves:
    """Read from the ledger how soon the orders moved that were open when workers were killed."""
    books = Recovering(house.runtime.pool)
    others: list[float] = []
    in_flight: list[float] = []
    tasks: list[float] = []
    for one in house.broken:
        killed = one.broken or one.began
        ids = [arrival.order.order_id for arrival in open_at(arrivals.all, killed)]
        worked = _worked(house, one)
        lost = {
            order_of(task.workflow_id): task.timed_out
            for task in await lost_tasks(house.runtime.desk.client, killed, killed)
            # The server may still hand a task to the worker that dies: it then begins after the kill.
            if task.started <= worked and killed < task.timed_out
        }
        for move in await books.moves(ids, killed):
            if move.order_id in lost:
                tasks.append((move.moved_at - max(lost[move.order_id], worked)).total_seconds())
            elif move.execution > 1:
                in_flight.append((move.moved_at - max(killed + HEARTBEAT, worked)).total_seconds())
            else:
                others.append(max(0.0, (move.moved_at - worked).total_seconds()))
    orders = len(others) + len(in_flight) + len(tasks)
    return Moves(max(others, default=None), max(in_flight, default=None), max(tasks, default=None), orders)


def _worked(house: House, one: Break) -> datetime:
    """When the first new worker after this break worked."""
    ready = [member.ready_at for member in house.crew.hired if member.ready_at is not None]
    return min((at for at in ready if at >= one.began), default=one.until)
