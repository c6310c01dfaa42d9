"""Pictures of the log: live in JupyterLab, with an SVG beside for wherever else the notebook is read.

Who has chosen a renderer of Altair's keeps it; `static()` chooses SVG alone, which keeps a stored notebook small.
Nothing is told by colour alone: a dash, a shape, a label or the place says it too. What goes into a picture is counted
first: never more than `MOST` rows. Each raises BadInput, one sentence, for a frame with nothing in it to draw.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from trellis.errors import BadInput

MOST = 5000

WIDTH = 560


def _check(frame: pd.DataFrame, what: str) -> None:
    if frame.empty:
        raise BadInput(f"There are no {what} to draw yet: start an order first.")
    from altair import renderers

    if renderers.active == "default":
        renderers.register("trellis", _live)
        renderers.enable("trellis")


def _live(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    """What JupyterLab draws itself, without a network, and an SVG. (Altair's own MIME type is of a later Vega-Lite
    than JupyterLab has, and its HTML loads scripts from elsewhere.)
    """
    import vl_convert

    older = {**spec, "$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    return {"application/vnd.vegalite.v5+json": older, "image/svg+xml": vl_convert.vegalite_to_svg(spec)}


def static() -> None:
    """From here on draw charts as SVG alone."""
    from altair import renderers

    renderers.enable("svg")
