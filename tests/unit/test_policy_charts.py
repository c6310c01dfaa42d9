"""Charts that compare policies: what their lines and marks are made from."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.frames import drawn
from trellis import insight
from trellis.errors import BadInput
from trellis.insight.charts.policies import completion_by_policy

RUNS = pd.DataFrame({
    "policy": ["swift"] * 4 + ["classic"],
    "seconds": [3.0, 1.0, 2.0, 5.0, 4.0],
    "outcome": ["completed", "completed", "failed", "censored", "completed"],
})  # fmt: skip


def test_an_order_that_failed_never_counts_as_completed() -> None:
    """Two of four orders completed: the measured line ends at a half, at the time of the longest order."""
    rows = drawn(completion_by_policy(RUNS, {}))
    swift = rows[rows["policy"] == "swift"]
    assert list(zip(swift["t"], swift["share"], strict=True)) == [(0.0, 0.0), (1.0, 0.25), (3.0, 0.5), (5.0, 0.5)]


def test_a_prediction_is_drawn_for_the_policies_that_have_one() -> None:
    """The curve is read between its points and ends where the measured line ends; classic has no curve."""
    rows = drawn(completion_by_policy(RUNS, {"swift": ([0.0, 10.0], [0.0, 1.0])}))
    predicted = rows[rows["line"] == "predicted"]
    assert set(predicted["policy"]) == {"swift"}
    assert (predicted["t"].iloc[0], predicted["t"].iloc[-1]) == (0.0, 5.0)
    assert predicted["share"].iloc[-1] == pytest.approx(0.5)


def test_without_runs_there_is_nothing_to_compare() -> None:
    """An empty frame is refused with a sentence."""
    with pytest.raises(BadInput):
        completion_by_policy(RUNS.iloc[:0], {})


def test_the_frontier_tells_three_kinds_of_policies_apart() -> None:
    """The recommended policy, those on the frontier, and the rest; a share of zero still fits a log scale."""
    table = pd.DataFrame({
        "name": ["a", "b", "c"], "calls_per_step": [3.0, 4.0, 5.0], "p_miss": [1e-3, 0.0, 1e-2],
        "pareto": [True, True, False], "hedge": [1, 2, 1],
    })  # fmt: skip
    rows = drawn(insight.frontier(table, "b"))
    assert list(rows["kind"]) == ["on the frontier", "recommended", "other"]
    assert rows["p_miss"].min() == 1e-12
