"""Charts of attempts and of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.charts.bands import BAND, band_layers, bands_on
from trellis.insight.charts.theme import MOST, WIDTH, labels, need_rows, since_start
from trellis.insight.colours import BLUE, GREY, INK, ORANGE, OUTCOMES, PAPER, SKY, VERMILION, on_paper
from trellis.insight.frames import words_of
from trellis.insight.whole import whole_attempts, whole_orders

if TYPE_CHECKING:
    import altair as alt

_ROUND_MARKS = {"succeeded": "circle", "failed": "cross", "timed out": "square", "abandoned": "diamond",
                "lost": "triangle-down", "unknown": "triangle-up", "open": "triangle-right"}  # fmt: skip


_PLACED = ("order_id", "step", "round", "execution", "try", "outcome", "started_at", "ended_at")


def _placed(attempts: pd.DataFrame) -> pd.DataFrame:
    """The attempts with a place on the time axis: columns `from` and `to` [UTC], and `dated` (the times were recorded).

    Attempts without times are spread evenly between what came before in their step (its scheduling, or the attempt
    before) and the next start in it. An attempt that has not ended is drawn up to its order's last known moment, one
    that has not begun from its scheduling.
    """
    rows = attempts.sort_values(["order_id", "step", "round", "execution", "try"])
    times = {name: rows[name] for name in ("started_at", "ended_at", "scheduled_at") if name in rows}
    first: Any = pd.concat(times.values()).min()
    first = pd.Timestamp(0, tz="UTC") if pd.isna(first) else first
    # In seconds: a product with a time that is not known would overflow.
    none = pd.Series(np.nan, rows.index)
    known = {name: (one - first) / pd.Timedelta(seconds=1) for name, one in times.items()}
    started, ended, scheduled = known["started_at"], known["ended_at"], known.get("scheduled_at", none)
    open_ = rows["outcome"] == "open"
    latest = pd.concat(known.values(), axis=1).max(axis=1).groupby(rows["order_id"]).transform("max")
    step = [rows[name] for name in ("order_id", "step", "round")]
    began = started.fillna(scheduled.where(ended.notna() | open_)).fillna(ended)
    began = began.mask(open_ & began.isna(), latest)
    dated = began.notna()
    before = ended.groupby(step, observed=True).ffill()
    low = before.fillna(scheduled.groupby(step, observed=True).transform("min"))
    high = began.groupby(step, observed=True).bfill()
    block = dated.groupby(step, observed=True).cumsum()
    gap = (~dated).groupby([*step, block], observed=True)
    # A step's first attempt begins soon after it was scheduled, each further one at some time after the one before.
    number, count = gap.cumsum(), gap.transform("sum").clip(lower=1)
    place = (number / (count + 1)).where(before.notna() | low.isna(), (number - 1) / count)
    began = began.fillna(low + (high - low) * place).fillna(high).fillna(low)
    ended = ended.mask(open_, latest).fillna(began)
    rows = rows.assign(
        **{"from": first + pd.to_timedelta(began, unit="s"), "to": first + pd.to_timedelta(ended, unit="s")},
        dated=dated & ~(open_ & started.isna()),
    )
    placed: pd.DataFrame = rows[began.notna()].sort_values("from")
    return placed


def _outcome_colour(alt: Any, present: Sequence[str]) -> Any:
    names = [name for name in OUTCOMES if name in set(present)]
    scale = alt.Scale(domain=names, range=[on_paper(OUTCOMES[name]) for name in names])
    return alt.Color("outcome:N", scale=scale, legend=alt.Legend(orient="top", title=None))


def _outcome_shape(alt: Any, present: Sequence[str]) -> Any:
    names = [name for name in OUTCOMES if name in set(present)]
    return alt.Shape("outcome:N", scale=alt.Scale(domain=names, range=[_ROUND_MARKS[name] for name in names]),
                     legend=alt.Legend(orient="top", title=None))  # fmt: skip


def _marks(alt: Any, base: Any, data: pd.DataFrame, x: str) -> list[Any]:
    """A mark for each row at `x`: filled where `times` are known, else hollow."""
    shape = _outcome_shape(alt, list(data["outcome"]))
    styles: dict[str, dict[str, Any]] = {
        "known": {"filled": True, "size": 42, "stroke": PAPER, "strokeWidth": 0.6},
        "not known": {"filled": False, "size": 55, "strokeWidth": 1.5},
    }
    return [
        base.transform_filter(f"datum.times == '{times}'").mark_point(opacity=1, **style).encode(x=x, shape=shape)
        for times, style in styles.items()
        if (data["times"] == times).any()
    ]


def gantt(attempts: pd.DataFrame, bands: pd.DataFrame | None = None) -> alt.LayerChart:
    """One order's tries on a time axis [s since its first try]. Each is a bar, with colour and mark by its outcome.

    `attempts`: a frame that `trellis.insight.attempts` or `history_attempts` returned. A hollow mark is a try whose
    times are not known. It is drawn at a time when it may have run. `bands`: what was broken meanwhile, drawn behind
    the tries; a frame with the columns name, began and healed [UTC], such as `session.experiments()`. Raises BadInput.
    """
    # Imported here: the import takes longer than the start of both servers, and a notebook's first cell draws nothing.
    import altair as alt

    words = words_of(attempts)
    need_rows(attempts, "attempts")
    rows = _placed(whole_attempts(attempts, *_PLACED)).head(MOST)
    need_rows(rows, "attempts with a known time")
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
        y=alt.Y("step:N", sort=steps, title=words.part),
        color=_outcome_colour(alt, present),
        tooltip=[alt.Tooltip("step:N", title=words.part), "attempt", "outcome", "times", *seconds],
    )
    title = f"seconds since the first {words.attempt}"
    bars = base.mark_bar(height=16, stroke=PAPER, strokeWidth=0.5).encode(x=alt.X("from:Q", title=title), x2="to:Q")
    # The bar of a try that failed at once is thinner than a pixel. Its mark keeps it visible, also without colour.
    layers = [bars, *_marks(alt, base, data, "to:Q")]
    shown = bands_on(bands, first, rows["to"].max())
    if len(shown):
        layers = [*band_layers(alt, shown, title), *layers]
    layered: Any = alt.layer(*layers).properties(width=WIDTH, height=alt.Step(26))
    chart: alt.LayerChart = layered
    return chart


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _many(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def timelines(
    orders: pd.DataFrame, attempts: pd.DataFrame, most: int = 30, bands: pd.DataFrame | None = None
) -> alt.LayerChart:
    """The first `most` orders, one line each [s since its first try], with a mark for each try that did not work.

    The line of an order that has not ended is dashed, up to an arrow at its last known moment. `bands`: as for `gantt`.
    Each order began at another time, so its line carries the bands at their own places. Raises BadInput.
    """
    import altair as alt

    words = words_of(orders)
    need_rows(orders, f"{words.run}s")
    orders = whole_orders(orders, "order_id", "state", "began_at", "ended_at")
    attempts = whole_attempts(attempts, *_PLACED)
    shown = orders.sort_values("began_at").head(most)
    lines, marks = _timeline_rows(shown, attempts[attempts["order_id"].isin(shown["order_id"])])
    order = list(lines["order"])
    y = alt.Y("order:N", sort=order, title=words.run, axis=alt.Axis(labelLimit=220))
    line = (
        alt.Chart(lines)
        .mark_rule(strokeWidth=2, color=on_paper(GREY))
        .encode(
            y=y, x=alt.X("start:Q", title=since_start(words)), x2="to:Q",
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
    broken = _bands_of(shown, lines, bands)
    if len(broken):
        tooltip = [alt.Tooltip("name:N", title="broken"), "from:Q", "to:Q"]
        x = alt.X("from:Q", title=since_start(words))
        layers.insert(0, alt.Chart(broken).mark_bar(height=11, **BAND).encode(y=y, x=x, x2="to:Q", tooltip=tooltip))
    if len(marks):
        base = alt.Chart(marks).encode(y=y, color=_outcome_colour(alt, list(marks["outcome"])))
        layers += _marks(alt, base, marks, "at:Q")
    layered: Any = alt.layer(*layers).properties(width=WIDTH, height=alt.Step(16))
    chart: alt.LayerChart = layered
    return chart


def _bands_of(shown: pd.DataFrame, lines: pd.DataFrame, bands: pd.DataFrame | None) -> pd.DataFrame:
    """The bands on each order's line. Columns: name, from, to [s since the order began], order."""
    ends = pd.to_timedelta(lines["to"], unit="s") + shown["began_at"]
    found = [
        bands_on(bands, began, end).assign(order=order)
        for began, end, order in zip(shown["began_at"], ends, lines["order"], strict=True)
    ]
    return pd.concat(found, ignore_index=True)


def _timeline_rows(shown: pd.DataFrame, tries: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(a line for each order, a mark for each try that did not work). Times in seconds since the order began."""
    moments = tries[[name for name in ("ended_at", "started_at", "scheduled_at") if name in tries]].max(axis=1)
    latest = moments.groupby(tries["order_id"]).max().reindex(shown["order_id"]).set_axis(shown.index)
    ended = shown["ended_at"].fillna(latest).fillna(shown["began_at"])
    lines = pd.DataFrame(
        {
            "order": labels(list(shown["order_id"].astype(str))),
            "state": shown["state"].astype(str),
            "to": (ended - shown["began_at"]).dt.total_seconds(),
            "open": np.where(shown["ended_at"].isna(), "not ended", "ended"),
        }
    ).assign(start=0.0)
    began = shown.set_index("order_id")["began_at"]
    label = dict(zip(shown["order_id"].astype(str), lines["order"], strict=True))
    placed = _placed(tries)
    bad = placed[~placed["outcome"].isin(["succeeded", "open"])].head(MOST)
    marks = pd.DataFrame(
        {
            "order": bad["order_id"].astype(str).map(label),
            "outcome": bad["outcome"].astype(str),
            "at": (bad["to"] - began.reindex(bad["order_id"]).set_axis(bad.index)).dt.total_seconds(),
            "times": np.where(bad["dated"], "known", "not known"),
        }
    )
    return lines, marks


def attempts_per_step(attempts: pd.DataFrame, success: float | None = None) -> alt.LayerChart:
    """How many attempts a step took: bars, with the geometric law as a line with points.

    `success`: the probability that one attempt works; by default the share that worked in `attempts`.
    """
    import altair as alt

    words = words_of(attempts)
    need_rows(attempts, "attempts")
    attempts = whole_attempts(attempts, "order_id", "step", "round", "outcome")
    # Hedge losers and lost tries say nothing about how often one must call. An attempt that is missing from a history
    # was followed by another one, so it did not work.
    judged = attempts[attempts["outcome"].isin(["succeeded", "failed", "timed out", "unknown"])]
    worked = judged["outcome"] == "succeeded"
    groups = worked.groupby([judged[name] for name in ("order_id", "step", "round")], observed=True)
    taken = groups.size()[groups.any()]
    if taken.empty:
        raise BadInput("No step has succeeded yet: there is nothing to count attempts of.")
    p = float(worked.mean()) if success is None else success
    if not 0 < p <= 1:
        raise BadInput(f"success={p} is not the probability that an attempt works: it must be above 0 and at most 1.")
    highest = int(min(taken.max(), 15))
    counts = taken.clip(upper=highest).value_counts().reindex(range(1, highest + 1), fill_value=0)
    law = [p * (1 - p) ** (k - 1) for k in range(1, highest)] + [(1 - p) ** (highest - 1)]
    bins = [str(k) for k in range(1, highest)] + [f"{highest} and more" if taken.max() > highest else str(highest)]
    data = pd.DataFrame({"attempts": bins, "measured": counts.to_numpy() / len(taken), "law": law})
    # In two lines: the label of the last bin is wider than its bar.
    lines = "indexof(datum.label, ' ') > 0 ? [split(datum.label, ' ')[0], 'and more'] : datum.label"
    axis = alt.Axis(labelAngle=0, labelExpr=lines)
    x = alt.X(
        "attempts:N", sort=bins, title=f"attempts of {_a(words.part)} ({len(taken):,} {_many(words.part)})", axis=axis
    )
    share = alt.Y("measured:Q", title=f"share of {_many(words.part)}", axis=alt.Axis(format="%"))
    base = alt.Chart(data)
    bars = (
        base.transform_calculate(name="'measured'")
        .mark_bar()
        .encode(x=x, y=share, color=_named(alt, "measured", on_paper(SKY)))
    )
    law_name = f"geometric law, p = {p:.2f}"
    line = (
        base.transform_calculate(name=f"'{law_name}'")
        .mark_line(point=alt.OverlayMarkDef(size=45), strokeDash=[4, 3])
        .encode(x=x, y="law:Q", color=_named(alt, law_name, INK))
    )
    chart: alt.LayerChart = (bars + line).resolve_scale(color="independent").properties(width=WIDTH, height=240)
    return chart


def _named(alt: Any, name: str, colour: str) -> Any:
    scale = alt.Scale(domain=[name], range=[colour])
    return alt.Color("name:N", scale=scale, legend=alt.Legend(orient="top", title=None))


def latency(steps: pd.DataFrame) -> alt.LayerChart:
    """How long steps that succeeded took [s, first start to last end, log scale]: a mark each for p50, p95 and p99.

    `steps`: a frame that `trellis.insight.steps` returned.
    """
    import altair as alt

    words = words_of(steps)
    done = steps[steps["succeeded"].astype(bool) & steps["seconds"].notna()]
    need_rows(done, f"finished {_many(words.part)}")
    cuts = (
        done.groupby("step", observed=True)["seconds"]
        .quantile(np.array([0.5, 0.95, 0.99]))
        .rename("seconds")
        .reset_index()
    )
    cuts["percentile"] = cuts.pop("level_1").map({0.5: "p50", 0.95: "p95", 0.99: "p99"})
    cuts["step"] = cuts["step"].astype(str)
    # Zero has no logarithm. It is drawn as 0.1 ms, which is less than these clocks resolve.
    cuts["seconds"] = cuts["seconds"].clip(lower=1e-4)
    wide = cuts.pivot(index="step", columns="percentile", values="seconds").reset_index()
    order = list(dict.fromkeys(steps.sort_values("started_at")["step"].astype(str)))
    y = alt.Y("step:N", sort=order, title=words.part)
    x = alt.X("seconds:Q", scale=alt.Scale(type="log"), title="seconds from first start to last end (log scale)")
    line = alt.Chart(wide).mark_rule(color=on_paper(GREY)).encode(y=y, x=alt.X("p50:Q", scale=alt.Scale(type="log"),
                     title="seconds from first start to last end (log scale)"), x2="p99:Q")  # fmt: skip
    names, colours = ["p50", "p95", "p99"], [on_paper(one) for one in (BLUE, ORANGE, VERMILION)]
    legend = alt.Legend(orient="top", title=None)
    points = (
        alt.Chart(cuts)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            y=y, x=x,
            color=alt.Color("percentile:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            shape=alt.Shape("percentile:N", scale=alt.Scale(domain=names, range=["circle", "square", "triangle-up"]),
                            legend=legend),
            tooltip=[alt.Tooltip("step:N", title=words.part), "percentile", alt.Tooltip("seconds:Q", format=".3f")],
        )
    )  # fmt: skip
    chart: alt.LayerChart = (line + points).properties(width=WIDTH, height=alt.Step(26))
    return chart
