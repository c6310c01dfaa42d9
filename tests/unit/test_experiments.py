"""Experiments in words and as bands: what a card says, and where a chart draws it. No server runs."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from trellis import insight
from trellis.audit import Report, Violation
from trellis.chaos.verdict import Verdict
from trellis.errors import BadInput
from trellis.insight.charts.bands import bands_on
from trellis.lab.experiment import Experiment, Phase, frame

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def report(*invariants: int, histories: int = 2) -> Report:
    found = [Violation("o1", one, "it is wrong", {}) for one in invariants]
    return Report(orders=2, charges=2, histories=histories, violations=found, found=Counter(invariants))


def ended(judged: Verdict | None, **more: Any) -> Experiment:
    healed = NOON + timedelta(seconds=5)
    return Experiment("worker-killed", "One ends.", began=NOON, healed=healed, judged=judged, phase=Phase.OVER, **more)


@pytest.mark.parametrize(
    ("judged", "verdict", "says"),
    [
        (Verdict(1, report()), "clean", "No invariant is broken"),
        (Verdict(1, report(1, 4)), "violations", "found 2 violations of 2 invariants"),
        (Verdict(0, report(1)), "violations", "found 1 violations"),
        (Verdict(0, report()), "void", "No fault landed"),
        (Verdict(1, report(histories=0)), "void", "No order ran"),
        (None, "void", "There was no audit: Postgres does not answer."),
    ],
)
def test_a_card_says_what_was_proved(judged: Verdict | None, verdict: str, says: str) -> None:
    """Clean needs a fault that landed and orders that were audited. A violation counts in any case."""
    experiment = ended(judged, trouble="" if judged else "Postgres does not answer.")
    assert experiment.verdict == verdict
    assert says in experiment.sentence
    assert ("broken for", "5.0 s") in experiment.numbers
    assert says in repr(experiment)
    assert verdict in experiment._repr_html_()
    assert len(experiment.violations) == (len(judged.report.violations) if judged else 0)


def test_an_experiment_that_is_not_over_has_no_verdict() -> None:
    """The line on the board says what happens now, in each phase."""
    experiment = Experiment("postgres-killed", "Postgres is killed.", still_open=1)
    sentences = set()
    for phase in Phase:
        experiment.phase = phase
        sentences.add(experiment.sentence)
        assert (experiment.verdict == "") is (phase is not Phase.OVER)
    assert len(sentences) == len(Phase)
    assert "Healed. Waiting for 1 order that was open." in sentences


def test_experiments_become_a_frame_with_utc_times() -> None:
    """What is still broken has no end. A session without experiments gives an empty frame of the same types."""
    lasting = Experiment("worker-frozen", "One stops.", began=NOON)
    found = frame([ended(Verdict(1, report())), lasting])
    assert found["name"].tolist() == ["worker-killed", "worker-frozen"]
    assert found["verdict"].tolist() == ["clean", ""]
    assert found["healed"].isna().tolist() == [False, True]
    assert frame([]).dtypes.to_dict() == found.dtypes.to_dict() == frame([lasting]).dtypes.to_dict()
    assert str(found["began"].dtype) == "datetime64[us, UTC]"


def bands(*spans: tuple[float, float | None]) -> pd.DataFrame:
    """Bands from and to so many seconds after noon."""
    rows = [
        Experiment(
            f"break-{n}", "", began=NOON + timedelta(seconds=start),
            healed=None if end is None else NOON + timedelta(seconds=end),
        )
        for n, (start, end) in enumerate(spans)
    ]  # fmt: skip
    return frame(rows)


def test_bands_are_cut_to_the_chart_and_others_are_left_out() -> None:
    """A band before or after the order's time would stretch its axis until nothing can be seen."""
    found = bands_on(
        bands((-9, -1), (-2, 3), (4, None), (11, 12)), pd.Timestamp(NOON), pd.Timestamp(NOON) + pd.Timedelta("10s")
    )
    assert found["name"].tolist() == ["break-1", "break-2"]
    assert found["from"].tolist() == [0, 4]
    assert found["to"].tolist() == [3, 10]


def attempts() -> pd.DataFrame:
    """Two orders with a try each: o1 from noon to 10 s later, o2 from 5 s after noon for 2 s."""
    started = [pd.Timestamp(NOON), pd.Timestamp(NOON) + pd.Timedelta("5s")]
    ends = [started[0] + pd.Timedelta("10s"), started[1] + pd.Timedelta("2s")]
    return pd.DataFrame(
        {
            "order_id": ["o1", "o2"], "step": "charge", "attempt": 1, "round": 0, "execution": 1, "try": 1,
            "outcome": ["failed", "failed"], "started_at": started, "ended_at": ends,
        }
    )  # fmt: skip


def drawn(chart: Any, mark: str) -> list[dict[str, Any]]:
    """The rows that the chart draws with this mark."""
    spec = chart.to_dict()
    layers = [one for one in spec["layer"] if one["mark"]["type"] == mark]
    return [row for one in layers for row in spec["datasets"][(one.get("data") or spec["data"])["name"]]]


def test_the_chart_of_an_order_shows_what_was_broken_meanwhile() -> None:
    """A rectangle behind the tries, with its name; without a break in its time, the chart is as before."""
    one = attempts().head(1)
    chart = insight.gantt(one, bands((2, 4)))
    assert [(row["name"], row["from"], row["to"]) for row in drawn(chart, "rect")] == [("break-0", 2, 4)]
    assert chart.to_dict()["layer"][0]["mark"]["type"] == "rect", "behind the tries"
    titles = {
        one["encoding"]["x"]["title"] for one in chart.to_dict()["layer"] if "title" in one["encoding"].get("x", {})
    }
    assert len(titles) == 1, "another title would be written beside it on the axis"
    assert insight.gantt(one, bands((60, 70))).to_dict() == insight.gantt(one).to_dict()
    with pytest.raises(BadInput, match="no began, healed"):
        insight.gantt(one, pd.DataFrame({"name": ["x"]}))


def test_the_chart_of_many_orders_has_each_band_at_its_place_in_each_order() -> None:
    """The axis counts from each order's own beginning, so one break lies at another place on each line."""
    tries = attempts()
    orders = pd.DataFrame(
        {
            "order_id": tries["order_id"], "state": "COMPLETED", "began_at": tries["started_at"],
            "ended_at": tries["ended_at"],
        }
    )  # fmt: skip
    chart = insight.timelines(orders, tries, bands=bands((4, 6)))
    found = {row["order"]: (row["from"], row["to"]) for row in drawn(chart, "bar")}
    assert found == {"o1": (4, 6), "o2": (0, 1)}
