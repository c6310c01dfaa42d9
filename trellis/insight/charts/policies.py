"""Policies compared: measured, predicted, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trellis.insight.charts.theme import WIDTH, measured_or_predicted, need_rows
from trellis.insight.colours import BLUE, GREY, VERMILION, on_paper

if TYPE_CHECKING:
    import altair as alt


def completion_by_policy(
    runs: pd.DataFrame, predicted: Mapping[str, tuple[Sequence[float], Sequence[float]]], deadline: float = 15.0
) -> alt.FacetChart:
    """Share of orders completed within t [s] for each policy: measured as a step line, `predicted` {policy: (t, cdf)}
    dashed.

    `runs`: a row per order, columns policy, seconds, outcome [completed, failed, censored]. An order that failed or was
    cut off never counts as completed. The measured line then stays below one. Raises BadInput when `runs` is empty.
    """
    import altair as alt

    need_rows(runs, "runs")
    frames = []
    for policy, orders in runs.groupby("policy", sort=False, observed=True):
        done = np.sort(orders.loc[orders["outcome"] == "completed", "seconds"].to_numpy(dtype=float))
        end = float(orders["seconds"].max())
        share = np.concatenate(([0.0], np.arange(1, len(done) + 1) / len(orders), [len(done) / len(orders)]))
        frames.append(pd.DataFrame({"policy": policy, "t": [0.0, *done, end], "share": share, "line": "measured"}))
        if policy in predicted:
            t, cdf = (np.asarray(one, dtype=float) for one in predicted[str(policy)])
            at = np.linspace(0, end, 61)
            curve = np.interp(at, t, cdf)
            frames.append(pd.DataFrame({"policy": policy, "t": at, "share": curve, "line": "predicted"}))
    data = pd.concat(frames, ignore_index=True)
    base = alt.Chart(data)
    curves = base.mark_line(interpolate="step-after", strokeWidth=2).encode(
        x=alt.X("t:Q", title="seconds since the start"),
        y=alt.Y("share:Q", title="completed", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
        **measured_or_predicted(alt),
    )
    rule = base.mark_rule(strokeDash=[2, 2]).encode(x=alt.datum(deadline))
    layered: Any = alt.layer(curves, rule).properties(width=170, height=130)
    facets: alt.FacetChart = layered.facet(
        facet=alt.Facet("policy:N", title=None, sort=list(dict.fromkeys(runs["policy"]))), columns=3
    )
    return facets


def frontier(table: pd.DataFrame, chosen: str | None = None, deadline: float = 15.0) -> alt.LayerChart:
    """P(missed) against calls a step, one mark for each policy. A line joins the frontier; `chosen` is recommended.

    `table`: columns name, calls_per_step, p_miss, pareto, hedge, as in the `frontier` of a recommendation.
    """
    import altair as alt

    need_rows(table, "frontier")
    data = table[["name", "calls_per_step", "p_miss", "pareto", "hedge"]].copy()
    data["p_miss"] = data["p_miss"].clip(lower=1e-12)
    data["kind"] = np.where(data["name"] == chosen, "recommended", np.where(data["pareto"], "on the frontier", "other"))
    kinds = ["recommended", "on the frontier", "other"]
    legend = alt.Legend(orient="top", title=None)
    base = alt.Chart(data).encode(
        x=alt.X("calls_per_step:Q", title="calls a step", scale=alt.Scale(zero=False)),
        y=alt.Y("p_miss:Q", title=f"share that misses {deadline:g} s", scale=alt.Scale(type="log"),
                axis=alt.Axis(format=".0e")),
    )  # fmt: skip
    hues = [on_paper(one) for one in (VERMILION, BLUE, GREY)]
    marks = base.mark_point(filled=True, size=60, opacity=0.8).encode(
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=hues), legend=legend),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=["diamond", "circle", "cross"]), legend=legend),
        tooltip=["name", alt.Tooltip("p_miss:Q", format=".1e"), alt.Tooltip("calls_per_step:Q", format=".2f")],
    )
    line = base.transform_filter("datum.pareto").mark_line(color=on_paper(BLUE), strokeWidth=1)
    chart: alt.LayerChart = (line + marks).properties(width=WIDTH, height=260)
    return chart
