"""How charts are drawn: live in JupyterLab, in the colours of its theme, and as an SVG for every other reader.

A chart is made with the colours of white paper. The live chart replaces them by JupyterLab's own CSS variables, so it
follows a change of theme at once. It is drawn as SVG in the page, because a canvas knows no CSS variables. The stored
SVG has a white background of its own, so that it can be read on any page, and a black one where the reader's system is
dark.

If the user has chosen one of Altair's renderers, it is used. `static()` draws SVG alone, which keeps a stored notebook
small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from trellis.errors import BadInput
from trellis.insight import colours
from trellis.insight.colours import AXIS, GRID, INK, PAPER
from trellis.insight.frames import ORDERS, Words, words_of

MOST = 5000
"""A chart holds at most this many rows."""

WIDTH = 560
"""The width of a chart [pixels]."""

_LIVE = "application/vnd.vegalite.v5+json"

_CONFIG: dict[str, Any] = {
    "background": PAPER,
    "view": {"stroke": GRID},
    "title": {"color": INK, "subtitleColor": INK},
    "style": {"guide-label": {"fill": INK}, "guide-title": {"fill": INK}},
    "axis": {"domainColor": AXIS, "gridColor": GRID, "tickColor": AXIS},
    "text": {"color": INK},
    "rule": {"color": INK},
}
# In a dark theme JupyterLab asks Vega for Vega's theme "dark". So each colour of that theme must be set above.

_EMBED = {
    "renderer": "svg",
    # Both actions draw on a canvas, which does not know the theme's colours.
    "actions": {"export": {"svg": True, "png": False}, "source": True, "compiled": True, "editor": False},
}


def need_rows(frame: pd.DataFrame, what: str, words: Words | None = None) -> None:
    """Raise BadInput with a sentence where `frame` has no rows. Also make charts live, unless a renderer was chosen."""
    if frame.empty:
        advice = ": start an order first" if (words or words_of(frame)) == ORDERS else ""
        raise BadInput(f"There are no {what} to draw yet{advice}.")
    from altair import renderers

    if renderers.active == "default":
        renderers.register("trellis", _live)
        renderers.enable("trellis")


def labels(ids: Sequence[str], most: int = 24) -> list[str]:
    """What charts write for these ids: at most `most` characters of each, where that tells all of them apart.

    Of a workflow's id with a run's id, the run's end is kept: ids made within a minute begin with the same letters.
    """
    for tail in (8, most // 2):
        short = [one if len(one) <= most else f"{one[: most - tail - 1]}\u2026{one[-tail:]}" for one in ids]
        if len(set(short)) == len(set(ids)):
            return short
    return list(ids)


def since_start(words: Words) -> str:
    """Where a run's seconds begin: an order at its first try, a workflow at its start."""
    return f"seconds since the {words.run}'s {'first try' if words == ORDERS else 'start'}"


def measured_or_predicted(alt: Any) -> dict[str, Any]:
    """Encodings of a line's column `line`: "measured" as a blue line, "predicted" as a red and dashed one."""
    names, legend = ["measured", "predicted"], alt.Legend(orient="top", title=None)
    hues = [colours.on_paper(one) for one in (colours.BLUE, colours.VERMILION)]
    return {
        "color": alt.Color("line:N", scale=alt.Scale(domain=names, range=hues), legend=legend),
        "strokeDash": alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=[[1, 0], [6, 4]]), legend=legend),
    }


def static() -> None:
    """From now on, draw charts as SVG alone."""
    from altair import renderers

    renderers.register("trellis-svg", _static)
    renderers.enable("trellis-svg")


def _live(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A MIME bundle: a specification that JupyterLab draws itself, without a network, and pictures for other readers.

    Altair's own renderers do not do this: their MIME type needs a later Vega-Lite than JupyterLab has, and their HTML
    loads scripts from elsewhere.
    """
    import base64

    import vl_convert

    light = _merged(_CONFIG, spec, "config")
    own = _own_paper(light)
    live = (light if own else _replaced(light, colours.jupyterlab())) | {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "usermeta": {"embedOptions": _EMBED},
    }
    # Without a PNG here, JupyterLab would draw one on a canvas and store it, without the theme's colours.
    png = base64.b64encode(vl_convert.vegalite_to_png(light)).decode()
    return {_LIVE: live, "image/svg+xml": _svg(light), "image/png": png}


def _static(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    return {"image/svg+xml": _svg(_merged(_CONFIG, spec, "config"))}


def _svg(light: dict[str, Any]) -> str:
    """The picture on white paper. A reader whose system is dark sees it on black paper, where styles are allowed."""
    import vl_convert

    if _own_paper(light):
        return str(vl_convert.vegalite_to_svg(light))
    rules = "".join(
        f'svg.marks [{name}="{one}"]{{{name}:{other}}}'
        for one, other in colours.dark().items()
        for name in ("fill", "stroke")
    )
    picture: str = vl_convert.vegalite_to_svg(light)
    head, rest = picture.split(">", 1)
    return f"{head}><style>@media (prefers-color-scheme:dark){{{rules}}}</style>{rest}"


def _own_paper(spec: dict[str, Any]) -> bool:
    """Whether the user has chosen the background. Text in the theme's colour might be unreadable on it."""
    return bool((spec.get("background") or spec["config"]["background"]) != PAPER)


def _merged(defaults: dict[str, Any], spec: dict[str, Any], name: str) -> dict[str, Any]:
    """`spec`, where its part `name` gets missing entries from `defaults`."""
    given = spec.get(name, {})
    part = dict(given)
    for key, value in defaults.items():
        part = _merged(value, part, key) if isinstance(value, dict) else {key: value} | part
    return {**spec, name: part}


def _replaced(part: Any, colours: dict[str, str]) -> Any:
    """The specification with its colours replaced; the data stay as they are."""
    if isinstance(part, dict):
        return {key: value if key in ("data", "datasets") else _replaced(value, colours) for key, value in part.items()}
    if isinstance(part, list):
        return [_replaced(value, colours) for value in part]
    return colours.get(part, part) if isinstance(part, str) else part
