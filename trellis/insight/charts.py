"""Pictures of the log. SVG when a notebook is executed, so that they show wherever the notebook is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from trellis.insight.colours import OUTCOMES

if TYPE_CHECKING:
    import altair as alt


def gantt(attempts: pd.DataFrame) -> alt.LayerChart:
    """One order's tries on a time axis [s since its first try]: a bar each, coloured by outcome.

    `attempts` as `trellis.insight.attempts` gives it. Raises ValueError when it is empty.
    """
    if attempts.empty:
        raise ValueError("There are no attempts to draw yet: start an order first.")
    # Imported here: it takes longer than both servers need to start, and the first cell draws nothing.
    import altair as alt

    alt.renderers.enable("svg")
    first = attempts["started_at"].min()
    rows = pd.DataFrame(
        {
            "step": attempts["step"].astype(str),
            "attempt": attempts["attempt"].astype(int),
            "outcome": attempts["outcome"].astype(str),
            "from": (attempts["started_at"] - first).dt.total_seconds(),
            "to": (attempts["ended_at"] - first).dt.total_seconds(),
        }
    )
    steps = list(dict.fromkeys(rows["step"]))
    scale = alt.Scale(domain=list(OUTCOMES), range=list(OUTCOMES.values()))
    base = alt.Chart(rows).encode(
        y=alt.Y("step:N", sort=steps, title=None),
        color=alt.Color("outcome:N", scale=scale, legend=alt.Legend(orient="top", title=None)),
        tooltip=["step", "attempt", "outcome", alt.Tooltip("from:Q", format=".3f"), alt.Tooltip("to:Q", format=".3f")],
    )
    bars = base.mark_bar(height=16, stroke="white", strokeWidth=0.5).encode(
        x=alt.X("from:Q", title="seconds since the first attempt"), x2="to:Q"
    )
    # A try that failed at once is thinner than a pixel; the tick keeps it in the picture.
    ticks = base.mark_tick(thickness=2, size=16).encode(x="to:Q")
    chart: alt.LayerChart = (bars + ticks).properties(width=560, height=alt.Step(26), background="white")
    return chart
