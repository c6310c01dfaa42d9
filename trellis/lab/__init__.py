"""The notebook surface: one engine thread with its own event loop, and widgets that talk to it."""

from trellis.lab.session import Session, reload, start
from trellis.lab.widgets import OrderPanel, panel

__all__ = ["OrderPanel", "Session", "panel", "reload", "start"]
