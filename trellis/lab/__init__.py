"""The notebook surface: one engine thread with its own event loop, and widgets that talk to it."""

from trellis.lab.essays.charging import hanging_charge
from trellis.lab.essays.crashes import both_books, charged_but_not_recorded, start_with_mistake
from trellis.lab.essays.edits import edited
from trellis.lab.essays.one_order import side_by_side, step_by_step
from trellis.lab.essays.policies import compare_policies, missed_deadlines, model_sliders, run_through_outage
from trellis.lab.essays.requests import send_after
from trellis.lab.essays.source import code_of, code_of_handler, sql_of
from trellis.lab.essays.versions import letters
from trellis.lab.session import Session, reload, start
from trellis.lab.time_machines import OrderMachine, TimeMachine, time_machine
from trellis.lab.widgets import OrderPanel, panel
from trellis.replay.check import check

__all__ = [
    "OrderMachine",
    "OrderPanel",
    "Session",
    "TimeMachine",
    "both_books",
    "charged_but_not_recorded",
    "check",
    "code_of",
    "code_of_handler",
    "compare_policies",
    "edited",
    "hanging_charge",
    "letters",
    "missed_deadlines",
    "model_sliders",
    "panel",
    "reload",
    "run_through_outage",
    "send_after",
    "side_by_side",
    "sql_of",
    "start",
    "start_with_mistake",
    "step_by_step",
    "time_machine",
]
