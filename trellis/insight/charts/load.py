"""How busy the workers were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.charts.theme import MOST, WIDTH, need_rows
from trellis.insight.colours import BLUE, SKY, on_paper
from trellis.insight.frames import words_of
from trellis.insight.whole import whole_attempts

if TYPE_CHECKING:
    import altair as alt


def utilisation(attempts: pd.DataFrame, by: str = "worker", bins: int = 120) -> alt.Chart:
    """How many tries are running at a time, as a mean per bin, in one row per worker (or value of the column `by`)."""
    import altair as alt

    words = words_of(attempts)
    need_rows(attempts, "attempts")
    if by not in attempts.columns:
        raise BadInput(f"by={by!r}: the attempts have no such column.")
    attempts = whole_attempts(attempts, "started_at", "ended_at")
    rows = attempts[attempts["started_at"].notna() & attempts["ended_at"].notna() & attempts[by].notna()]
    need_rows(rows, "attempts with a start and an end")
    began = rows["started_at"].min()
    start = (rows["started_at"] - began).dt.total_seconds().to_numpy()
    end = np.maximum((rows["ended_at"] - began).dt.total_seconds().to_numpy(), start)
    edges = np.linspace(0, max(float(end.max()), 1e-3), bins + 1)
    groups = rows[by].astype(str).to_numpy()
    names = pd.Series(groups).value_counts().index[: MOST // bins]
    data = []
    for name in names:
        # The seconds spent before t are the sum of clip(t - start, 0, end - start). Their slope is the number running.
        s, e = start[groups == name], end[groups == name]
        spent = _spent(np.sort(s), edges) - _spent(np.sort(e), edges)
        data.append(pd.DataFrame({"t": edges[:-1], "busy": np.diff(spent) / np.diff(edges), "who": name}))
    table = pd.concat(data, ignore_index=True)
    chart: alt.Chart = (
        alt.Chart(table)
        .mark_area(interpolate="step-after", color=on_paper(SKY), line={"color": on_paper(BLUE)})
        .encode(
            x=alt.X("t:Q", title=f"seconds since the first {words.attempt}"),
            y=alt.Y("busy:Q", title="under way"),
            row=alt.Row("who:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left", labelOrient="top")),
        )
        .properties(width=WIDTH, height=70)
    )
    return chart


def _spent(points: np.ndarray[Any, Any], at: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For each t the sum of max(0, t - p) over the sorted points."""
    n = np.searchsorted(points, at)
    sums = np.concatenate([[0.0], np.cumsum(points)])
    return np.asarray(n * at - sums[n])
