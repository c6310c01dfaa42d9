"""Recordings made by hand, for tests of what draws and saves them. The engine's own are tested with real histories."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from trellis.replay.recording import Recorder, Recording
from trellis.replay.steps import Command, Event, Line, Wait, Woken
from trellis.replay.values import Fields, Tree

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FILE = "/home/somebody/shop/workflows/order.py"
SOURCE = '"""A shop\'s order."""\n' + "".join(f"line_{n} = {n}  # of the order\n" for n in range(2, 81))
EVENTS = ("ACTIVITY_TASK_COMPLETED", "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "ACTIVITY_TASK_SCHEDULED")


def line(number: int, function: str = "Order.run") -> Line:
    return Line(FILE, number, function)


def address(city: str) -> Fields:
    return Fields("Address", [("line1", "1 Main Street"), ("city", city)])


def variables(step: int) -> dict[str, Tree]:
    """The variables after a step: some stay, one changes always, a list grows and is emptied, one comes and goes."""
    found: dict[str, Tree] = {
        "address": address("Springfield"),
        "progress": Fields("Progress", [("state", f"STATE_{step // 4}"), ("tries", step)]),
        "asked": [f"request-{n}" for n in range(step % 7)],
    }
    return found | ({"reason": f"because of {step}"} if step % 5 == 0 else {})


def recorded(
    steps: int, workflow_id: str = "order-1", *, change: Callable[[int, dict[str, Any]], None] | None = None
) -> Recording:
    """So many steps of four events each. `change(number, arguments)` may change what `Recorder.step` is given."""
    events = [
        Event(
            4 * step + place + 1,
            START + timedelta(seconds=step, milliseconds=20 * place),
            type_,
            f"{type_.lower().replace('_', ' ')} {step + 1}",
            {"result": [{"charged": True, "city": "Springfield"}]} if place == 0 else None,
        )
        for step in range(steps)
        for place, type_ in enumerate(EVENTS)
    ]
    recorder = Recorder(workflow_id, f"run-of-{workflow_id}", "Order", events)
    for step in range(1, steps + 1):
        at = 10 + step % 60
        given: dict[str, Any] = {
            "event": 4 * step - 1,
            "at": START + timedelta(seconds=step - 1, milliseconds=40),
            "woken_by": [Woken("activity resolved", "the answer of `charge`", 4 * step - 3)],
            "lines": [line(at - 2), line(at - 1), *[line(at, "Order.review")] * 3],
            "waits": [Wait("run", (line(10), line(at, "Order.review")))],
            "commands": [
                Command("activity", "charge", [Fields("Charge", [("amount", 25), ("address", address("Springfield"))])],
                        {"id": str(step), "task queue": "orders"}, line(at, "Order.review"))
            ],
            "variables": variables(step),
        }  # fmt: skip
        if change is not None:
            change(step, given)
        recorder.step(**given)
    return recorder.finish({FILE: SOURCE})
