"""Pictures of the log: live in JupyterLab, with an SVG beside for wherever else the notebook is read.

Who has chosen a renderer of Altair's keeps it; `static()` chooses SVG alone, which keeps a stored notebook small.
Nothing is told by colour alone: a dash, a shape, a label or the place says it too. What goes into a picture is counted
first: never more than `MOST` rows. Each raises BadInput, one sentence, for a frame with nothing in it to draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.colours import OUTCOMES, PARTS

if TYPE_CHECKING:
    import altair as alt

MOST = 5000
WIDTH = 560
_ROUND_MARKS = {"succeeded": "circle", "failed": "cross", "timed out": "square", "abandoned": "diamond",
                "lost": "triangle-down", "unknown": "triangle-up", "open": "triangle-right"}  # fmt: skip


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


def _placed(attempts: pd.DataFrame) -> pd.DataFrame:
    """The attempts with a place on the time axis: columns `from` and `to` [UTC], and `dated`, whether it is their own.

    Those without a time are spread evenly between what came before in their step (its scheduling, or the attempt
    before) and the next start in it. What has not ended reaches to the last moment known.
    """
    rows = attempts.sort_values(["order_id", "step", "round", "execution", "try"])
    scheduled = rows["scheduled_at"] if "scheduled_at" in rows else pd.Series(pd.NaT, rows.index, "datetime64[us, UTC]")
    step = [rows[name] for name in ("order_id", "step", "round")]
    open_ = rows["outcome"] == "open"
    ended = rows["ended_at"]
    latest = pd.concat([rows["started_at"], ended, scheduled]).max()
    own = rows["started_at"].fillna(scheduled.where(ended.notna())).fillna(ended)
    began = own.mask(open_ & own.isna(), latest)
    dated = began.notna()
    before = ended.groupby(step, observed=True).ffill()
    low = before.fillna(scheduled.groupby(step, observed=True).transform("min"))
    high = began.groupby(step, observed=True).bfill()
    block = dated.groupby(step, observed=True).cumsum()
    gap = (~dated).groupby([*step, block], observed=True)
    # A step's first attempt begins about when it was scheduled; the next one at some time after the one before.
    number, count = gap.cumsum(), gap.transform("sum")
    place = (number / (count + 1)).where(before.notna() | low.isna(), (number - 1) / count)
    began = began.fillna(low + (high - low) * place).fillna(high).fillna(low)
    rows = rows.assign(**{"from": began, "to": ended.mask(open_, latest).fillna(began), "dated": own.notna()})
    return rows[rows["from"].notna()].sort_values("from")


def _outcome_colour(alt: Any, present: Sequence[str]) -> Any:
    names = [name for name in OUTCOMES if name in set(present)]
    scale = alt.Scale(domain=names, range=[OUTCOMES[name] for name in names])
    return alt.Color("outcome:N", scale=scale, legend=alt.Legend(orient="top", title=None))


def _outcome_shape(alt: Any, present: Sequence[str]) -> Any:
    names = [name for name in OUTCOMES if name in set(present)]
    return alt.Shape("outcome:N", scale=alt.Scale(domain=names, range=[_ROUND_MARKS[name] for name in names]),
                     legend=alt.Legend(orient="top", title=None))  # fmt: skip


def _marks(alt: Any, base: Any, data: pd.DataFrame, x: str) -> list[Any]:
    """A mark for each row at `x`: filled, or hollow where `times` are not known."""
    shape = _outcome_shape(alt, list(data["outcome"]))
    styles: dict[str, dict[str, Any]] = {
        "known": {"filled": True, "size": 42, "stroke": "white", "strokeWidth": 0.6},
        "not known": {"filled": False, "size": 55, "strokeWidth": 1.5},
    }
    return [
        base.transform_filter(f"datum.times == '{times}'").mark_point(opacity=1, **style).encode(x=x, shape=shape)
        for times, style in styles.items()
        if (data["times"] == times).any()
    ]


def gantt(attempts: pd.DataFrame) -> alt.LayerChart:
    """One order's tries on a time axis [s since its first try]: a bar each, coloured and marked by outcome.

    `attempts` as `trellis.insight.attempts` or `history_attempts` gives it. A mark that is hollow stands where its try
    can have been, not where it was: nobody wrote its times down.
    """
    # Imported late: it takes longer than both servers need to start, and the first cell draws nothing.
    import altair as alt

    _check(attempts, "attempts")
    rows = _placed(attempts).head(MOST)
    _check(rows, "attempts with a known time")
    first = rows["from"].min()
    data = pd.DataFrame(
        {
            "step": rows["step"].astype(str),
            "attempt": rows["attempt"].astype(float),
            "outcome": rows["outcome"].astype(str),
            "from": (rows["from"] - first).dt.total_seconds(),
            "to": (rows["to"] - first).dt.total_seconds(),
            "times": np.where(rows["dated"], "known", "not known"),
        }
    )
    steps = list(dict.fromkeys(data["step"]))
    present = list(data["outcome"])
    seconds = [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("from", "to")]
    base = alt.Chart(data).encode(
        y=alt.Y("step:N", sort=steps, title=None),
        color=_outcome_colour(alt, present),
        tooltip=["step", "attempt", "outcome", "times", *seconds],
    )
    bars = base.mark_bar(height=16, stroke="white", strokeWidth=0.5).encode(
        x=alt.X("from:Q", title="seconds since the first attempt"), x2="to:Q"
    )
    # A try that failed at once is thinner than a pixel; its mark keeps it in the picture, and says more than colour.
    layered: Any = alt.layer(bars, *_marks(alt, base, data, "to:Q")).properties(
        width=WIDTH, height=alt.Step(26), background="white"
    )
    chart: alt.LayerChart = layered
    return chart


def timelines(orders: pd.DataFrame, attempts: pd.DataFrame, most: int = 30) -> alt.LayerChart:
    """The first `most` orders, a line each [s since its first try], a mark for each try that did not work.

    An order that has not ended is dashed and ends in an arrow at the last moment known of it.
    """
    import altair as alt

    _check(orders, "orders")
    shown = orders.sort_values("began_at").head(most)
    tries = attempts[attempts["order_id"].isin(shown["order_id"])]
    latest = tries.groupby("order_id")["ended_at"].max().reindex(shown["order_id"]).set_axis(shown.index)
    ended = shown["ended_at"].fillna(latest).fillna(shown["began_at"])
    lines = pd.DataFrame(
        {
            "order": shown["order_id"].astype(str),
            "state": shown["state"].astype(str),
            "to": (ended - shown["began_at"]).dt.total_seconds(),
            "open": np.where(shown["ended_at"].isna(), "not ended", "ended"),
        }
    ).assign(start=0.0)
    began = shown.set_index("order_id")["began_at"]
    placed = _placed(tries)
    bad = placed[~placed["outcome"].isin(["succeeded", "open"])].head(MOST)
    marks = pd.DataFrame(
        {
            "order": bad["order_id"].astype(str),
            "outcome": bad["outcome"].astype(str),
            "at": (bad["to"] - began.reindex(bad["order_id"]).set_axis(bad.index)).dt.total_seconds(),
            "times": np.where(bad["dated"], "known", "not known"),
        }
    )
    order = list(lines["order"])
    y = alt.Y("order:N", sort=order, title=None, axis=alt.Axis(labelLimit=110))
    line = (
        alt.Chart(lines)
        .mark_rule(strokeWidth=2, color="#666666")
        .encode(
            y=y, x=alt.X("start:Q", title="seconds since the order's first try"), x2="to:Q",
            strokeDash=alt.StrokeDash(
                "open:N", scale=alt.Scale(domain=["ended", "not ended"], range=[[1, 0], [4, 3]]), legend=None
            ),
        )
    )  # fmt: skip
    end = (
        alt.Chart(lines)
        .mark_text(align="left", dx=5, fontSize=10)
        .encode(y=y, x="to:Q", text="label:N")
        .transform_calculate(label="datum.open == 'ended' ? lower(datum.state) : '\u25b6 ' + lower(datum.state)")
    )
    layers: list[Any] = [line, end]
    if len(marks):
        base = alt.Chart(marks).encode(y=y, color=_outcome_colour(alt, list(marks["outcome"])))
        layers += _marks(alt, base, marks, "at:Q")
    layered: Any = alt.layer(*layers).properties(width=WIDTH, height=alt.Step(16), background="white")
    chart: alt.LayerChart = layered
    return chart


def attempts_per_step(attempts: pd.DataFrame, success: float | None = None) -> alt.LayerChart:
    """How many attempts a step took, as bars, against the geometric law, as a line with points.

    `success` is the chance that one attempt works; by default the share of those measured that did.
    """
    import altair as alt

    _check(attempts, "attempts")
    # Hedge losers and lost tries say nothing about how often one must call. One that a history does not hold was
    # followed by another: it did not work.
    judged = attempts[attempts["outcome"].isin(["succeeded", "failed", "timed out", "unknown"])]
    worked = judged["outcome"] == "succeeded"
    groups = worked.groupby([judged[name] for name in ("order_id", "step", "round")], observed=True)
    taken = groups.size()[groups.any()]
    if taken.empty:
        raise BadInput("No step has succeeded yet: there is nothing to count attempts of.")
    p = float(worked.mean()) if success is None else success
    if not 0 < p <= 1:
        raise BadInput(f"success={p} is no chance that an attempt works: above 0, at most 1.")
    highest = int(min(taken.max(), 15))
    counts = taken.clip(upper=highest).value_counts().reindex(range(1, highest + 1), fill_value=0)
    law = [p * (1 - p) ** (k - 1) for k in range(1, highest)] + [(1 - p) ** (highest - 1)]
    labels = [str(k) for k in range(1, highest)] + [f"{highest}+" if taken.max() > highest else str(highest)]
    data = pd.DataFrame({"attempts": labels, "measured": counts.to_numpy() / len(taken), "law": law})
    x = alt.X(
        "attempts:N", sort=labels, title=f"attempts of a step ({len(taken):,} steps)", axis=alt.Axis(labelAngle=0)
    )
    share = alt.Y("measured:Q", title="share of steps", axis=alt.Axis(format="%"))
    base = alt.Chart(data)
    bars = (
        base.transform_calculate(name="'measured'")
        .mark_bar()
        .encode(x=x, y=share, color=_named(alt, "measured", "#56B4E9"))
    )
    told = f"geometric law, p = {p:.2f}"
    line = (
        base.transform_calculate(name=f"'{told}'")
        .mark_line(point=alt.OverlayMarkDef(size=45), strokeDash=[4, 3])
        .encode(x=x, y="law:Q", color=_named(alt, told, "#000000"))
    )
    chart: alt.LayerChart = (
        (bars + line).resolve_scale(color="independent").properties(width=WIDTH, height=240, background="white")
    )
    return chart


def _named(alt: Any, name: str, colour: str) -> Any:
    scale = alt.Scale(domain=[name], range=[colour])
    return alt.Color("name:N", scale=scale, legend=alt.Legend(orient="top", title=None))


def latency(steps: pd.DataFrame) -> alt.LayerChart:
    """From the first start to the last end of each step that succeeded [s]: p50, p95 and p99, a mark each, log scale.

    `steps` as `trellis.insight.steps` gives it.
    """
    import altair as alt

    done = steps[steps["succeeded"] & steps["seconds"].notna()]
    _check(done, "finished steps")
    cuts = (
        done.groupby("step", observed=True)["seconds"]
        .quantile(np.array([0.5, 0.95, 0.99]))
        .rename("seconds")
        .reset_index()
    )
    cuts["percentile"] = cuts.pop("level_1").map({0.5: "p50", 0.95: "p95", 0.99: "p99"})
    cuts["step"] = cuts["step"].astype(str)
    # A logarithm has no place for nothing: a tenth of a millisecond is below what any clock here can tell.
    cuts["seconds"] = cuts["seconds"].clip(lower=1e-4)
    wide = cuts.pivot(index="step", columns="percentile", values="seconds").reset_index()
    order = list(dict.fromkeys(steps.sort_values("started_at")["step"].astype(str)))
    y = alt.Y("step:N", sort=order, title=None)
    x = alt.X("seconds:Q", scale=alt.Scale(type="log"), title="seconds from first start to last end (log scale)")
    line = alt.Chart(wide).mark_rule(color="#999999").encode(y=y, x=alt.X("p50:Q", scale=alt.Scale(type="log"),
                     title="seconds from first start to last end (log scale)"), x2="p99:Q")  # fmt: skip
    names, colours = ["p50", "p95", "p99"], ["#0072B2", "#E69F00", "#D55E00"]
    legend = alt.Legend(orient="top", title=None)
    points = (
        alt.Chart(cuts)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            y=y, x=x,
            color=alt.Color("percentile:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            shape=alt.Shape("percentile:N", scale=alt.Scale(domain=names, range=["circle", "square", "triangle-up"]),
                            legend=legend),
            tooltip=["step", "percentile", alt.Tooltip("seconds:Q", format=".3f")],
        )
    )  # fmt: skip
    chart: alt.LayerChart = (line + points).properties(width=WIDTH, height=alt.Step(26), background="white")
    return chart


def shares(orders: pd.DataFrame, steps: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Where the seconds of each ended order went. Index order_id; columns as in `colours.PARTS` [s].

    review: from AWAITING_APPROVAL to the approval, the end of the window, or the moment in which the order began to
    close; queue: what is in none of the others (task queues, the servers'
    own time, the ledger). Lanes of a hedge overlap, so the parts are scaled down where they exceed the whole.
    """
    ended = orders[orders["ended_at"].notna()].set_index("order_id")
    _check(ended, "ended orders")
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
    """Mean seconds per part, stacked: of all ended orders, and of the fastest and slowest tenth."""
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
    scale = alt.Scale(domain=list(PARTS), range=list(PARTS.values()))
    bars = alt.Chart(data).mark_bar(stroke="white").encode(
        y=y, x=alt.X("from:Q", title="seconds, mean"), x2="to:Q",
        color=alt.Color("part:N", scale=scale, legend=alt.Legend(orient="top", title=None)),
        tooltip=["orders", "part", alt.Tooltip("seconds:Q", format=".3f")],
    )  # fmt: skip
    text = alt.Chart(data).mark_text(fontSize=11, color="black").encode(y=y, x="middle:Q", text="label:N")
    chart: alt.LayerChart = (bars + text).properties(width=WIDTH, height=alt.Step(34), background="white")
    return chart


def completion(
    orders: pd.DataFrame,
    deadline: float | None = 15.0,
    predicted: tuple[Sequence[float], Sequence[float]] | None = None,
    *,
    log: bool = False,
) -> alt.LayerChart:
    """Share of orders completed within t [s], as a step line; the deadline as a rule; `predicted` (t, cdf) dashed.

    Orders that are open, or that ended otherwise, never count as completed: the line then stays below one. With `log`
    it shows the share not yet completed, on a log scale, which is where the misses are.
    """
    import altair as alt

    _check(orders, "orders")
    done = np.sort(orders.loc[orders["state"] == "COMPLETED", "seconds"].to_numpy(dtype=float))
    if not len(done):
        raise BadInput("No order has completed yet: there is no completion time to draw.")
    levels = np.arange(1, len(done) + 1) / len(orders)
    pick = np.unique(np.linspace(0, len(done) - 1, min(len(done), 1000)).astype(int))
    measured = pd.DataFrame({"t": done[pick], "share": levels[pick], "line": "measured"})
    frames = [pd.DataFrame({"t": [0.0], "share": [0.0], "line": ["measured"]}), measured]
    if predicted is not None:
        t, cdf = (np.asarray(one, dtype=float) for one in predicted)
        if t.shape != cdf.shape or not len(t):
            raise BadInput("predicted= is a pair (t, cdf) of two lists of one length.")
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
    names = ["measured", "predicted"]
    legend = alt.Legend(orient="top", title=None)
    curves = alt.Chart(data).mark_line(interpolate="step-after", strokeWidth=2).encode(
        x=alt.X("t:Q", title="seconds since the order's first try"), y=y,
        color=alt.Color("line:N", scale=alt.Scale(domain=names, range=["#0072B2", "#D55E00"]), legend=legend),
        strokeDash=alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=[[1, 0], [6, 4]]), legend=legend),
    )  # fmt: skip
    layers: list[Any] = [curves]
    if deadline is not None:
        at = alt.Chart(pd.DataFrame({"t": [deadline], "label": [f"deadline {deadline:g} s"]}))
        layers += [
            at.mark_rule(color="black", strokeDash=[2, 2]).encode(x="t:Q"),
            at.mark_text(align="right", dx=-5, color="black").encode(x="t:Q", y=alt.value(12), text="label:N"),
        ]
    layered: Any = alt.layer(*layers).properties(width=WIDTH, height=260, background="white")
    chart: alt.LayerChart = layered
    return chart


def follows(events: pd.DataFrame) -> pd.DataFrame:
    """Which kind of event followed which, tries without success left out.

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
    _check(log, "events")
    paths = log["type"].astype(str).groupby(log["order_id"]).agg(" \u2192 ".join)
    counts = paths.value_counts()
    return pd.DataFrame(
        {"path": counts.index, "orders": counts.to_numpy(), "share": counts.to_numpy() / len(paths)}
    ).head(most)


def state_map(events: pd.DataFrame) -> alt.LayerChart:
    """What followed what: a box per kind of event, an arc per step from one to the next, as wide as it is frequent.

    On each arc: how often, and p50 / p95 of the seconds between. Boxes stand in the order in which they first come;
    arcs to a later box bow right, arcs back bow left.
    """
    import altair as alt

    edges = follows(events)
    _check(edges, "events that follow one another")
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
    told = pd.DataFrame(labels, columns=["x", "y", "label", "align"])
    farthest = float(max(2.0, path["x"].abs().max(), told["x"].abs().max())) + 1.6
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-farthest if (path["x"] < 0).any() else -1.6, farthest]))
    down = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[len(place) - 0.5, -0.6]))
    arcs = alt.Chart(path).mark_line(color="#0072B2", opacity=0.55, interpolate="monotone").encode(
        x=x, y=down, detail="edge:N", order="i:Q",
        strokeWidth=alt.StrokeWidth("width:Q", scale=None, legend=None),
    )  # fmt: skip
    heads = alt.Chart(path[path["i"] == 12]).mark_point(
        shape="triangle-down", filled=True, size=55, color="#0072B2", opacity=0.9
    ).encode(x=x, y=down)  # fmt: skip
    nodes = alt.Chart(boxes.assign(x=-1.0, x2=1.0, top=boxes["y"] - 0.16, bottom=boxes["y"] + 0.16))
    rects = nodes.mark_rect(fill="#ffffff", stroke="#333333", cornerRadius=4).encode(x=x, x2="x2:Q", y=alt.Y(
        "top:Q", axis=None), y2="bottom:Q")  # fmt: skip
    names = alt.Chart(boxes.assign(x=0.0)).mark_text(fontSize=11, color="black").encode(x=x, y=down, text="label:N")
    layers: list[Any] = [arcs, heads, rects, names]
    for align in ("left", "right"):
        layers.append(
            alt.Chart(told[told["align"] == align])
            .mark_text(align=align, fontSize=10, color="black")
            .encode(x=x, y=down, text="label:N")
        )
    layered: Any = alt.layer(*layers).properties(
        width=WIDTH + 60, height=52 * len(place), background="white"
    ).configure_view(stroke=None)  # fmt: skip
    chart: alt.LayerChart = layered
    return chart


def utilisation(attempts: pd.DataFrame, by: str = "worker", bins: int = 120) -> alt.Chart:
    """Tries under way over time, a row of its own for each worker (or `by="step"`, or another column): mean per bin."""
    import altair as alt

    _check(attempts, "attempts")
    if by not in attempts.columns:
        raise BadInput(f"by={by!r}: the attempts have no such column.")
    rows = attempts[attempts["started_at"].notna() & attempts["ended_at"].notna() & attempts[by].notna()]
    _check(rows, "attempts with a start and an end")
    began = rows["started_at"].min()
    start = (rows["started_at"] - began).dt.total_seconds().to_numpy()
    end = np.maximum((rows["ended_at"] - began).dt.total_seconds().to_numpy(), start)
    edges = np.linspace(0, max(float(end.max()), 1e-3), bins + 1)
    groups = rows[by].astype(str).to_numpy()
    names = pd.Series(groups).value_counts().index[: MOST // bins]
    data = []
    for name in names:
        # Seconds spent before t is the sum of clip(t - start, 0, end - start): its slope is what was under way.
        s, e = start[groups == name], end[groups == name]
        spent = _spent(np.sort(s), edges) - _spent(np.sort(e), edges)
        data.append(pd.DataFrame({"t": edges[:-1], "busy": np.diff(spent) / np.diff(edges), "who": name}))
    table = pd.concat(data, ignore_index=True)
    chart: alt.Chart = (
        alt.Chart(table)
        .mark_area(interpolate="step-after", color="#56B4E9", line={"color": "#0072B2"})
        .encode(
            x=alt.X("t:Q", title="seconds since the first attempt"),
            y=alt.Y("busy:Q", title="under way"),
            row=alt.Row("who:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left", labelOrient="top")),
        )
        .properties(width=WIDTH, height=70, background="white")
    )
    return chart


def _spent(points: np.ndarray[Any, Any], at: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For each t the sum of max(0, t - p) over the sorted points."""
    n = np.searchsorted(points, at)
    sums = np.concatenate([[0.0], np.cumsum(points)])
    return np.asarray(n * at - sums[n])


def raced(
    races: pd.DataFrame, predicted: Mapping[str, tuple[Sequence[float], Sequence[float]]], deadline: float = 15.0
) -> alt.FacetChart:
    """Share of orders completed within t [s] for each policy: measured as steps, `predicted` {policy: (t, cdf)} dashed.

    `races`: columns policy, seconds, outcome [completed, failed, censored]. What failed, or was cut off, never counts
    as completed, so a measured line stays below one. Raises BadInput when there is nothing to draw.
    """
    import altair as alt

    _check(races, "races")
    frames = []
    for policy, orders in races.groupby("policy", sort=False, observed=True):
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
    names = ["measured", "predicted"]
    legend = alt.Legend(orient="top", title=None)
    base = alt.Chart(data)
    curves = base.mark_line(interpolate="step-after", strokeWidth=2).encode(
        x=alt.X("t:Q", title="seconds since the start"),
        y=alt.Y("share:Q", title="completed", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
        color=alt.Color("line:N", scale=alt.Scale(domain=names, range=["#0072B2", "#D55E00"]), legend=legend),
        strokeDash=alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=[[1, 0], [6, 4]]), legend=legend),
    )
    rule = base.mark_rule(color="black", strokeDash=[2, 2]).encode(x=alt.datum(deadline))
    layered: Any = alt.layer(curves, rule).properties(width=170, height=130)
    facets: alt.FacetChart = layered.facet(
        facet=alt.Facet("policy:N", title=None, sort=list(dict.fromkeys(races["policy"]))), columns=3
    ).properties(background="white")
    return facets


def frontier(table: pd.DataFrame, chosen: str | None = None, deadline: float = 15.0) -> alt.LayerChart:
    """P(missed) against calls a step, one mark for each policy; the frontier as a line, `chosen` by name.

    `table`: columns name, calls_per_step, p_miss, pareto, as `trellis.insight.recommend` gives them.
    """
    import altair as alt

    _check(table, "frontier")
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
    marks = base.mark_point(filled=True, size=60, opacity=0.8).encode(
        color=alt.Color(
            "kind:N", scale=alt.Scale(domain=kinds, range=["#D55E00", "#0072B2", "#BBBBBB"]), legend=legend
        ),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=["diamond", "circle", "cross"]), legend=legend),
        tooltip=["name", alt.Tooltip("p_miss:Q", format=".1e"), alt.Tooltip("calls_per_step:Q", format=".2f")],
    )
    line = base.transform_filter("datum.pareto").mark_line(color="#0072B2", strokeWidth=1)
    chart: alt.LayerChart = (line + marks).properties(width=WIDTH, height=260, background="white")
    return chart
