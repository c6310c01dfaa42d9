"""Which event follows which: tables and a map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from trellis.insight.charts.theme import WIDTH, need_rows
from trellis.insight.colours import AXIS, BLUE, PAPER, on_paper

if TYPE_CHECKING:
    import altair as alt


def follows(events: pd.DataFrame) -> pd.DataFrame:
    """Which type of event followed which. Tries without success are left out.

    Columns: from, to [str], count [int], p50, p95 [s between the two].
    """
    log = events[~events["type"].astype(str).str.startswith("ATTEMPT_")].sort_values(["order_id", "id"])
    kind = log["type"].astype(str)
    after = log.groupby("order_id")
    pairs = pd.DataFrame(
        {
            "from": kind, "to": kind.groupby(log["order_id"]).shift(-1),
            "s": (after["ts"].shift(-1) - log["ts"]).dt.total_seconds(),
        }
    ).dropna()  # fmt: skip
    grouped = pairs.groupby(["from", "to"])["s"]
    return grouped.agg(count="size", p50="median", p95=lambda s: s.quantile(0.95)).reset_index()


def variants(events: pd.DataFrame, most: int = 10) -> pd.DataFrame:
    """The paths that orders took, most frequent first. Columns: path [str], orders [int], share [float]."""
    log = events[~events["type"].astype(str).str.startswith("ATTEMPT_")].sort_values(["order_id", "id"])
    need_rows(log, "events")
    paths = log["type"].astype(str).groupby(log["order_id"]).agg(" \u2192 ".join)
    counts = paths.value_counts()
    return pd.DataFrame(
        {"path": counts.index, "orders": counts.to_numpy(), "share": counts.to_numpy() / len(paths)}
    ).head(most)


def state_map(events: pd.DataFrame) -> alt.LayerChart:
    """Which event followed which: a box for each type of event, and an arc from one to the next. A wider arc is more
    frequent.

    Each arc shows how often it occurred, and p50 / p95 of the seconds between. The boxes stand in the order of their
    events. Arcs to a later box curve to the right, arcs back curve to the left.
    """
    import altair as alt

    edges = follows(events)
    need_rows(edges, "events that follow one another")
    log = events[~events["type"].astype(str).str.startswith("ATTEMPT_")]
    log = log.assign(place=log.sort_values("id").groupby("order_id").cumcount(), kind=log["type"].astype(str))
    middle = log.groupby("kind")["place"].median()
    ranked = sorted(middle.index, key=lambda kind: (middle[kind], -int((log["kind"] == kind).sum()), kind))
    place = {kind: n for n, kind in enumerate(ranked)}
    totals = log["kind"].value_counts()
    boxes = pd.DataFrame(
        {"y": list(place.values()), "label": [f"{k.lower().replace('_', ' ')}  ({totals[k]:,})" for k in place]}
    )
    most = int(edges["count"].max())
    points, labels = [], []
    for n, edge in enumerate(edges.itertuples(index=False)):
        start, end, count, p50, p95 = edge
        a, b = place[start], place[end]
        side = 1.0 if b > a else -1.0
        bow = side * (1.0 + 0.55 * max(0, abs(b - a) - 1)) if abs(b - a) else -1.0
        edge_x = side * 1.0
        width = 1 + 5 * count / most
        for i in range(13):
            u = i / 12
            y = a + 0.14 + (b - a - 0.28 * (1 if b > a else -1) - (0.28 if b < a else 0)) * u if a != b else a + 0.3 * u
            reach: float = edge_x + (bow - edge_x + side * 0.18) * 4 * u * (1 - u)
            if b - a == 1:
                reach = 0.0
            points.append((n, i, reach, y, width))
        tip = (b - a == 1, a + (b - a) / 2)
        text = f"{count:,} \u00b7 {p50:.2g} / {p95:.2g} s"
        labels.append((0.08 if tip[0] else bow + side * 0.28, tip[1], text, "left" if tip[0] or side > 0 else "right"))
    path = pd.DataFrame(points, columns=["edge", "i", "x", "y", "width"])
    texts = pd.DataFrame(labels, columns=["x", "y", "label", "align"])
    farthest = float(max(2.0, path["x"].abs().max(), texts["x"].abs().max())) + 1.6
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-farthest if (path["x"] < 0).any() else -1.6, farthest]))
    down = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[len(place) - 0.5, -0.6]))
    arcs = alt.Chart(path).mark_line(color=on_paper(BLUE), opacity=0.55, interpolate="monotone").encode(
        x=x, y=down, detail="edge:N", order="i:Q",
        strokeWidth=alt.StrokeWidth("width:Q", scale=None, legend=None),
    )  # fmt: skip
    heads = alt.Chart(path[path["i"] == 12]).mark_point(
        shape="triangle-down", filled=True, size=55, color=on_paper(BLUE), opacity=0.9
    ).encode(x=x, y=down)  # fmt: skip
    nodes = alt.Chart(boxes.assign(x=-1.0, x2=1.0, top=boxes["y"] - 0.16, bottom=boxes["y"] + 0.16))
    rects = nodes.mark_rect(fill=PAPER, stroke=AXIS, cornerRadius=4).encode(x=x, x2="x2:Q", y=alt.Y(
        "top:Q", axis=None), y2="bottom:Q")  # fmt: skip
    names = alt.Chart(boxes.assign(x=0.0)).mark_text(fontSize=11).encode(x=x, y=down, text="label:N")
    layers: list[Any] = [arcs, heads, rects, names]
    for align in ("left", "right"):
        layers.append(
            alt.Chart(texts[texts["align"] == align])
            .mark_text(align=align, fontSize=10)
            .encode(x=x, y=down, text="label:N")
        )
    layered: Any = alt.layer(*layers).properties(
        width=WIDTH + 60, height=52 * len(place)
    ).configure_view(stroke=None)  # fmt: skip
    chart: alt.LayerChart = layered
    return chart
