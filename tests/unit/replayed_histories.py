"""Made histories of the workflows in `replayed`, and their recordings."""

from __future__ import annotations

from trellis.bench.made_history import MadeHistory
from trellis.replay import Recording, replay


def calls() -> MadeHistory:
    """The whole life of `Calls`."""
    made = MadeHistory("Calls", "Ada", workflow_id="calls-1")
    made.task()
    first = made.activity("greet", "Ada")
    made.answer(first, "Hello")
    made.task()
    second = made.activity("bless", "Ada")
    made.answer(second, "Ada")
    made.task()
    made.signal("release")
    made.task()
    timer = made.timer(5)
    made.fire(timer)
    made.task()
    made.complete("Hello Ada")
    return made


def rounds(left: int, before: str = "") -> MadeHistory:
    """One run of `Rounds`: run-1, which continues as run-0."""
    made = MadeHistory("Rounds", left, workflow_id="rounds", run_id=f"run-{left}")
    made.events[0].workflow_execution_started_event_attributes.continued_execution_run_id = before
    made.task()
    child = made.child("Child", f"child-{left}", f"child-run-{left}")
    made.task()
    made.child_completed(child, left)
    made.task()
    if left:
        made.continue_as_new(f"run-{left - 1}", left - 1)
    else:
        made.complete("over")
    return made


def child(number: int) -> MadeHistory:
    made = MadeHistory("Child", number, workflow_id=f"child-{number}", run_id=f"child-run-{number}")
    made.task()
    made.complete(number)
    return made


def recorded(made: MadeHistory, class_: type, **options: object) -> Recording:
    """The recording of one made history with one class."""
    return replay(made.history, class_, family=False, **options)  # type: ignore[arg-type]
