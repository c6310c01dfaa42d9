"""Outages drawn: the backlog of one storm, and which loads and outages a policy recovers from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trellis.insight.charts.theme import MOST, WIDTH, need_rows
from trellis.insight.colours import BLUE, GREEN, INK, ORANGE, VERMILION, on_paper
from trellis.insight.frames import ORDERS

if TYPE_CHECKING:
    import altair as alt

    from trellis.insight.storms import Storm

_VERDICTS = {"recovers quickly": GREEN, "recovers slowly": ORANGE, "never": VERMILION}


def backlog(storm: Storm) -> alt.VConcatChart:
    """The open orders of a storm over time, and below them the calls in a second. A band marks the outage."""
    import altair as alt

    need_rows(storm.timeline, "seconds", ORDERS)
    rows = storm.timeline.iloc[:: -(-len(storm.timeline) // MOST)]
    out = pd.DataFrame({"from": [storm.broken], "to": [storm.healed]})
    time = alt.X("t:Q", title="seconds; the band is the outage")

    def panel(column: str, title: str) -> alt.LayerChart:
        band = alt.Chart(out).mark_rect(opacity=0.25, color=on_paper(VERMILION)).encode(x="from:Q", x2="to:Q")
        line = alt.Chart(rows).mark_line(strokeWidth=2, color=on_paper(BLUE)).encode(
            x=time, y=alt.Y(f"{column}:Q", title=title)
        )  # fmt: skip
        drawn: alt.LayerChart = (band + line).properties(width=WIDTH, height=110)
        return drawn

    return alt.vconcat(panel("backlog", "open orders"), panel("calls", "calls in a second"))


def recovery_map(table: pd.DataFrame) -> alt.LayerChart:
    """A cell for each load and each length of outage: the seconds until recovery, or *never*.

    `table`: columns load, outage_s, drained_s, as `insight.storms.storm_map` returns. The colour says whether the
    recovery took at most as long as the outage.
    """
    import altair as alt

    need_rows(table, "storms", ORDERS)
    data = table[["load", "outage_s", "drained_s"]].copy()
    never = data["drained_s"].isna()
    slow = data["drained_s"] > data["outage_s"]
    data["verdict"] = np.select([never, slow], ["never", "recovers slowly"], "recovers quickly")
    data["text"] = np.where(never, "never", data["drained_s"].map("{:.1f} s".format))
    hues = alt.Scale(domain=list(_VERDICTS), range=[on_paper(one) for one in _VERDICTS.values()])
    base = alt.Chart(data).encode(
        x=alt.X("load:O", title="load (share of the capacity)", axis=alt.Axis(format=".0%", labelAngle=0)),
        y=alt.Y("outage_s:O", title="outage [s]", sort="descending"),
    )
    cells = base.mark_rect(opacity=0.55).encode(
        color=alt.Color("verdict:N", scale=hues, legend=alt.Legend(orient="top", title=None)),
        tooltip=["load", "outage_s", "drained_s", "verdict"],
    )
    chart: alt.LayerChart = (cells + base.mark_text(color=INK).encode(text="text:N")).properties(
        width=WIDTH, height=alt.Step(26)
    )
    return chart
