"""Which event follows which: tables and a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from trellis.errors import BadInput
from trellis.insight.charts.theme import WIDTH, need_rows
from trellis.insight.colours import AXIS, BLUE, PAPER, on_paper
from trellis.insight.frames import ORDERS, restored, words_of
from trellis.insight.history.frames import once, order_ids, whole

if TYPE_CHECKING:
    import altair as alt


_MOST = 60
"""A map has at most this many boxes."""

_ENDS = {"succeeded": "completed", "failed": "failed", "timed out": "timed out", "abandoned": "cancelled"}

_NAMED_BY_KIND = {"signal", "signal sent", "update", "child", "nexus"}


def _log(frame: pd.DataFrame) -> pd.DataFrame:
    """What happened, one row each, in its order. Columns: order_id, kind [str], ts [UTC].

    Of the ledger's events, tries without success are left out. Of a history: the start and the end of the workflow, and
    the ends of activities, timers, children, Nexus operations, signals and updates.
    """
    if "kind" in frame:
        return _history_log(whole(frame))
    if missing := [name for name in ("order_id", "id", "type", "ts") if name not in frame]:
        raise BadInput(f"This frame has no {', '.join(missing)}: give one of insight.events or of insight.history.")
    log = restored(frame, times=["ts"], strings=["order_id"])
    log = log[~log["type"].astype(str).str.startswith("ATTEMPT_")].sort_values(["order_id", "id"])
    return log.assign(kind=log["type"].astype(str))[["order_id", "kind", "ts"]]


def _history_log(history: pd.DataFrame) -> pd.DataFrame:
    rows = once(history.assign(order_id=order_ids(history)))
    kind, name, outcome = (rows[column].astype(str) for column in ("kind", "name", "outcome"))
    label = name.where(kind.isin(["activity", "local activity"]), kind)
    label = label.where(~kind.isin(_NAMED_BY_KIND), kind + " " + name)
    label = label.where(outcome == "succeeded", label + " " + outcome).where(kind != "workflow", outcome.map(_ENDS))
    # An attempt that another one followed is no step of the workflow. Markers are the SDK's own business.
    last = ~rows.duplicated(["order_id", "kind", "event"], keep="last") & ~kind.isin(["marker", "unknown event", "gap"])
    ended = rows.assign(label=label, number=rows["end_event"], ts=rows["ended_at"])[last & rows["end_event"].notna()]
    began = rows.assign(label="started", number=rows["event"], ts=rows["started_at"])[kind == "workflow"]
    log = pd.concat([began, ended]).sort_values(["order_id", "number"], kind="stable", ignore_index=True)
    return pd.DataFrame({"order_id": log["order_id"], "kind": log["label"].astype(str), "ts": log["ts"]})


def follows(events: pd.DataFrame) -> pd.DataFrame:
    """Which type of event followed which, in the ledger's events or in a history. Tries without success are left out.

    `events`: a frame of `insight.events`, or of `insight.history`: then activities, timers, signals, updates, children
    and Nexus operations follow one another as they ended, between the workflow's start and its end.
    Columns: from, to [str], count [int], p50, p95 [s between the two; below 0 where clocks differ].
    """
    return _follows(_log(events))


def _follows(log: pd.DataFrame) -> pd.DataFrame:
    after = log.groupby("order_id")
    pairs = pd.DataFrame(
        {
            "from": log["kind"], "to": after["kind"].shift(-1),
            "s": (after["ts"].shift(-1) - log["ts"]).dt.total_seconds(),
        }
    ).dropna(subset=["to"])  # fmt: skip
    grouped = pairs.groupby(["from", "to"])["s"]
    return grouped.agg(count="size", p50="median", p95=lambda s: s.quantile(0.95)).reset_index()


def variants(events: pd.DataFrame, most: int = 10) -> pd.DataFrame:
    """The paths that orders took, most frequent first. `events` as for `follows`.

    Columns: path [str], orders (for a history: workflows) [int], share [float].
    """
    log = _log(events)
    need_rows(log, "events", words_of(events))
    paths = log["kind"].groupby(log["order_id"]).agg(" \u2192 ".join)
    counts = paths.value_counts()
    runs = f"{words_of(events).run}s"
    return pd.DataFrame({"path": counts.index, runs: counts.to_numpy(), "share": counts.to_numpy() / len(paths)}).head(
        most
    )


def state_map(events: pd.DataFrame) -> alt.LayerChart:
    """Which event followed which: a box for each type of event, and an arc from one to the next. A wider arc is more
    frequent. `events` as for `follows`.

    Each arc shows how often it occurred, and p50 / p95 of the seconds between. The boxes stand in the order of their
    events. Arcs to a later box curve to the right, arcs back curve to the left.
    """
    import altair as alt

    log = _log(events)
    edges = _follows(log)
    need_rows(edges, "events that follow one another", words_of(events))
    if (kinds := log["kind"].nunique()) > _MOST:
        raise BadInput(f"This map would have {kinds} boxes, over {_MOST}: choose workflows of one type, or fewer.")
    place, boxes = _boxes(log, lower=words_of(events) == ORDERS)
    path, texts = _arcs(edges, place)
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


def _boxes(log: pd.DataFrame, *, lower: bool) -> tuple[dict[str, int], pd.DataFrame]:
    """(the row of each kind of event in the map, the boxes with their labels). `lower`: labels in small letters."""
    log = log.assign(place=log.groupby("order_id").cumcount())
    middle = log.groupby("kind")["place"].median()
    totals = log["kind"].value_counts()
    ranked = sorted(middle.index, key=lambda kind: (middle[kind], -int(totals[kind]), kind))
    place = {str(kind): n for n, kind in enumerate(ranked)}
    labels = [f"{k.lower().replace('_', ' ') if lower else k}  ({totals[k]:,})" for k in place]
    return place, pd.DataFrame({"y": list(place.values()), "label": labels})


def _arcs(edges: pd.DataFrame, place: Mapping[str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(the points of each arc, the text beside it)."""
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
    return (
        pd.DataFrame(points, columns=["edge", "i", "x", "y", "width"]),
        pd.DataFrame(labels, columns=["x", "y", "label", "align"]),
    )
