"""The control room's page. It draws a recording with the modules of the time machine's page."""

from __future__ import annotations

from pathlib import Path

from trellis.pages.joining import Page
from trellis.replay import saving

FOLDER = Path(__file__).with_name("page")

ROOM = Page((saving.FOLDER, FOLDER), "room")

RUN = Page((FOLDER,), "run")
"""The page of a recorded run: the board, and a slider."""
