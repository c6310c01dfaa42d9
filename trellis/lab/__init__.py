"""The notebook surface: one engine thread with its own event loop, and widgets that talk to it."""

from trellis.lab.race import model_sliders, race_policies
from trellis.lab.session import Session, reload, start
from trellis.lab.story import code_of, code_of_class, race, side_by_side, step_by_step
from trellis.lab.widgets import OrderPanel, panel

__all__ = [
    "OrderPanel",
    "Session",
    "code_of",
    "code_of_class",
    "model_sliders",
    "panel",
    "race",
    "race_policies",
    "reload",
    "side_by_side",
    "start",
    "step_by_step",
]
