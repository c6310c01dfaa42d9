"""The panel that talks to workflows: start one, send a signal, an update or a query, by forms from type hints.

Page module: `page/talk.js`, exported as `talk`. It needs of the room: `room.engine` (a Session with `flights`) and
`room.feed.focused -> (workflow_id, run_id, workflow_type) | None`; trait `talk` is not needed, all goes by messages.
"""

from __future__ import annotations

from trellis.lab.control_room.board import Panel


class Talk(Panel):
    name = "talk"
