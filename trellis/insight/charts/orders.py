"""Charts of whole orders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.charts.theme import WIDTH, measured_or_predicted, need_rows, since_start
from trellis.insight.colours import PAPER, PARTS, on_paper
from trellis.insight.frames import words_of
from trellis.insight.whole import whole_orders

if TYPE_CHECKING:
    import altair as alt


def shares(orders: pd.DataFrame, steps: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Where the seconds of each ended order went. Index: order_id. Columns: as in `colours.PARTS` [s].

    review: from AWAITING_APPROVAL to the approval, to the end of the window, or to the moment when the order began to
    close. queue: the rest (task queues, the servers' own time, the ledger). Lanes of a hedge overlap, so the parts are
    scaled down where their sum exceeds the whole.
    """
    ended = orders[orders["ended_at"].notna()].set_index("order_id")
    need_rows(ended, "ended orders")
    sums = steps.groupby("order_id")[["good_s", "failed_s", "hung_s", "wait_s"]].sum()
    sums = sums.reindex(ended.index).fillna(0.0).clip(lower=0)
    sums.columns = pd.Index(["success", "failed attempts", "hangs", "backoff"])
    first = events.groupby(["order_id", "type"], observed=True)["ts"].min().unstack()
    first = first.reindex(ended.index, columns=["AWAITING_APPROVAL", "ORDER_APPROVED", "APPROVAL_TIMEOUT"])
    first = first.astype("datetime64[us, UTC]").assign(closing=ended["closing_at"], ended=ended["ended_at"])
    review = first.drop(columns="AWAITING_APPROVAL").min(axis=1) - first["AWAITING_APPROVAL"]
    sums["review"] = review.dt.total_seconds().fillna(0.0).clip(lower=0)
    whole = ended["seconds"].clip(lower=0)
    over = (sums.sum(axis=1) / whole).clip(lower=1.0)
    sums = sums.div(over, axis=0)
    sums["queue"] = (whole - sums.sum(axis=1)).clip(lower=0)
    return sums[list(PARTS)]


def where_the_seconds_go(orders: pd.DataFrame, steps: pd.DataFrame, events: pd.DataFrame) -> alt.LayerChart:
    """Mean seconds per part, stacked, for all ended orders and for the fastest and the slowest tenth."""
    import altair as alt

    parts = shares(orders, steps, events)
    whole = parts.sum(axis=1).sort_values()
    tenth = max(1, math.ceil(len(whole) / 10))
    groups = {"all": whole.index, "fastest tenth": whole.index[:tenth], "slowest tenth": whole.index[-tenth:]}
    rows = [(g, part, s) for g, index in groups.items() for part, s in parts.loc[index].mean().items()]
    data = pd.DataFrame(rows, columns=["orders", "part", "seconds"])
    data["rank"] = data["part"].map({name: n for n, name in enumerate(PARTS)})
    data["to"] = data.groupby("orders")["seconds"].cumsum()
    data["middle"] = data["to"] - data["seconds"] / 2
    widest = data["to"].max()
    data["label"] = [f"{s:.2f}" if s > widest / 18 else "" for s in data["seconds"]]
    data["from"] = data["to"] - data["seconds"]
    y = alt.Y("orders:N", sort=list(groups), title=None)
    scale = alt.Scale(domain=list(PARTS), range=[on_paper(colour) for colour in PARTS.values()])
    bars = alt.Chart(data).mark_bar(stroke=PAPER, size=16, yOffset=-7).encode(
        y=y, x=alt.X("from:Q", title="seconds, mean"), x2="to:Q",
        color=alt.Color("part:N", scale=scale, legend=alt.Legend(orient="top", title=None)),
        tooltip=["orders", "part", alt.Tooltip("seconds:Q", format=".3f")],
    )  # fmt: skip
    text = alt.Chart(data).mark_text(fontSize=11, dy=10).encode(y=y, x="middle:Q", text="label:N")
    chart: alt.LayerChart = (bars + text).properties(width=WIDTH, height=alt.Step(34))
    return chart


def completion(
    orders: pd.DataFrame,
    deadline: float | None = 15.0,
    predicted: tuple[Sequence[float], Sequence[float]] | None = None,
    *,
    log: bool = False,
) -> alt.LayerChart:
    """Share of orders completed within t [s], as a step line. A vertical line marks the deadline; `predicted` (t, cdf)
    is dashed.

    Orders that are open, or that ended otherwise, never count as completed. The line then stays below one. `log` draws
    the share not yet completed on a log scale, where a few missed deadlines can be seen.
    """
    import altair as alt

    words = words_of(orders)
    need_rows(orders, f"{words.run}s")
    orders = whole_orders(orders, "state", "seconds")
    done = np.sort(orders.loc[orders["state"] == "COMPLETED", "seconds"].to_numpy(dtype=float))
    if not len(done):
        raise BadInput(f"No {words.run} has completed yet: there is no completion time to draw.")
    levels = np.arange(1, len(done) + 1) / len(orders)
    pick = np.unique(np.linspace(0, len(done) - 1, min(len(done), 1000)).astype(int))
    measured = pd.DataFrame({"t": done[pick], "share": levels[pick], "line": "measured"})
    frames = [pd.DataFrame({"t": [0.0], "share": [0.0], "line": ["measured"]}), measured]
    if predicted is not None:
        t, cdf = (np.asarray(one, dtype=float) for one in predicted)
        if t.shape != cdf.shape or not len(t):
            raise BadInput("predicted= must be a pair (t, cdf) of two lists of equal length.")
        pick = np.unique(np.linspace(0, len(t) - 1, min(len(t), 1000)).astype(int))
        reach = max(done[-1], deadline or 0.0) * 1.05
        curve = pd.DataFrame({"t": t[pick], "share": cdf[pick], "line": "predicted"})
        frames.append(curve[curve["t"] <= reach])
    data = pd.concat(frames, ignore_index=True)
    if log:
        data["share"] = 1 - data["share"]
        data = data[data["share"] > 1e-9]
    y = alt.Y("share:Q", title="not yet completed" if log else "completed",
              scale=alt.Scale(type="log") if log else alt.Scale(domain=[0, 1]),
              axis=alt.Axis(format=".0e" if log else "%"))  # fmt: skip
    curves = alt.Chart(data).mark_line(interpolate="step-after", strokeWidth=2).encode(
        x=alt.X("t:Q", title=since_start(words)), y=y, **measured_or_predicted(alt)
    )  # fmt: skip
    layers: list[Any] = [curves]
    if deadline is not None:
        at = alt.Chart(pd.DataFrame({"t": [deadline], "label": [f"deadline {deadline:g} s"]}))
        layers += [
            at.mark_rule(strokeDash=[2, 2]).encode(x="t:Q"),
            at.mark_text(align="right", dx=-5).encode(x="t:Q", y=alt.value(12), text="label:N"),
        ]
    layered: Any = alt.layer(*layers).properties(width=WIDTH, height=260)
    chart: alt.LayerChart = layered
    return chart
