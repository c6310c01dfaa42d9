"""The book as frames: alone, or in the gaps of a history, it teaches the same truth; and more exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.traps.calls import Mix, mixed
from tests.traps.frames import BEGAN, history
from tests.traps.honest import sequence
from tests.traps.world import Rule, Try, World
from trellis import insight
from trellis.errors import BadInput
from trellis.insight.fit import Learned, fit, learn
from trellis.insight.flights.columns import named, typed
from trellis.insight.recommend import recommend
from trellis.policies import Placement

TRUTH = Mix(0.4, 0.15)
SERVER = Rule(1.0, 0.1, 1.0, by_server=True)
QUICK = Rule(0.25, 0.005, 0.05, lanes=2)


def flown(rule: Rule, runs: int = 150, seed: int = 3) -> tuple[World, pd.DataFrame]:
    """A world of two activities, and its history. Activities are named by the event that scheduled them."""
    world = World(sequence("charge", "pack"), mixed(TRUTH, {}), rule, seed=seed).simulate(runs, at_once=10)
    frame = history(world)
    return world, frame.assign(activity_id=frame["event"].astype("string").where(frame["kind"] == "activity"))


def book(world: World) -> pd.DataFrame:
    """What `insight.flights(tries=True)` returns for that world: every attempt, and the tries of loops."""
    rows = [row for run in world.runs for item in run.items for row in _rows(item)]
    return typed(pd.DataFrame(rows, columns=named(tries=True, payloads=False)))


def _rows(item: Any) -> list[dict[str, Any]]:
    rule, first = item.rule, item.tries[0]
    base = {
        "workflow_id": f"order-{item.run.number:06d}", "run_id": f"0198c0de-0000-7000-8000-{item.run.number:012x}",
        "workflow_type": item.run.kind, "activity_id": str(item.event), "activity_type": item.name, "queue": "trips",
        "worker": first.worker, "local": False, "scheduled_at": _at(item.scheduled), "namespace": "default",
        "start_to_close_timeout": rule.timeout, "initial_interval": rule.first, "maximum_interval": rule.most,
        "backoff_coefficient": rule.multiplier, "maximum_attempts": rule.max_tries, "heartbeats": 0,
    }  # fmt: skip
    if rule.by_server:
        return [base | _ended(one) | {"attempt": one.number, "try": 0, "lane": 0} for one in item.tries]
    loop = base | {"attempt": 1, "attempt_scheduled_at": _at(item.scheduled)}
    whole = loop | {"try": 0, "lane": 0, "started_at": _at(first.started), "ended_at": _at(item.ended),
                    "outcome": item.outcome, "start_to_close_timeout": 60.0}  # fmt: skip
    return [whole, *(loop | _ended(one) | {"attempt_scheduled_at": _at(item.scheduled), "try": one.number,
                                           "lane": one.lane} for one in item.tries)]  # fmt: skip


def _ended(one: Try) -> dict[str, Any]:
    return {"attempt_scheduled_at": _at(one.started), "started_at": _at(one.started), "ended_at": _at(one.ended),
            "outcome": one.outcome}  # fmt: skip


def _at(seconds: float) -> pd.Timestamp:
    return (BEGAN + pd.Timedelta(seconds=seconds)).floor("us")


def widths(learned: Learned) -> list[float]:
    """How wide the intervals are of the share that raises, of each step."""
    return [float(np.subtract(*one.intervals["error"][::-1])) for one in learned.steps.values()]


def test_history_book_and_both_teach_the_same_truth() -> None:
    """The shares are found by all three, by the book with tighter intervals; and all advise the same policy."""
    world, told = flown(SERVER)
    noted = book(world)
    runs = insight.history_workflows(told)
    found = {"history": learn(told), "book": learn(noted, runs=runs), "both": learn(told, book=noted)}
    for learned in found.values():
        for step in ("charge", "pack"):
            of = learned.steps[step]
            low, high = of.intervals["error"]
            assert low <= TRUTH.error <= high
            assert of.intervals["hang"][0] <= TRUTH.hang <= of.intervals["hang"][1]
        assert learned.noun == "workflow"
    assert found["history"].tries == found["book"].tries == found["both"].tries == len(noted)
    assert widths(found["both"]) == pytest.approx(widths(found["book"]))
    assert all(tight < wide for tight, wide in zip(widths(found["book"]), widths(found["history"]), strict=True))
    advice = {name: recommend(20, 1e-2, learned) for name, learned in found.items()}
    assert len({one.policy.name for one in advice.values()}) == 1


def test_the_tries_of_a_loop_take_the_place_of_their_attempt() -> None:
    """The same attempts as in the world, with lanes, and the loop's own rule as the policy in force."""
    world, told = flown(QUICK, runs=60)
    noted = book(world)
    tries = insight.flight_attempts(noted)
    assert len(tries) == sum(len(run.tries) for run in world.runs)
    assert set(tries["execution"]) == {1}
    assert tries["lane"].max() == 1
    assert set(tries["placement"]) == {"activity"}
    learned = learn(noted)
    rule = learned.in_force.retry if learned.in_force else None
    assert rule is not None
    assert (rule.placement, rule.hedge, rule.try_timeout) == (Placement.ACTIVITY, 2, 0.25)
    shares = [one.shares["error"] for one in learned.steps.values()]
    assert shares == pytest.approx([TRUTH.error] * 2, abs=0.1)
    assert learn(told, book=noted).tries == len(tries)


def test_the_book_alone_is_drawn_and_counted() -> None:
    """Charts, steps and fits take the frame of the book as it is."""
    noted = book(flown(SERVER, runs=12)[0])
    one = noted[noted["workflow_id"] == noted["workflow_id"].iloc[0]]
    assert insight.gantt(one).to_dict()
    assert insight.attempts_per_step(noted).to_dict()
    assert insight.utilisation(noted).to_dict()
    steps = insight.steps(noted)
    assert len(steps) == 24
    assert insight.latency(steps).to_dict()
    assert fit(noted[noted["activity_type"] == "charge"]).tries == (noted["activity_type"] == "charge").sum()


def test_a_book_in_any_form_is_the_same(tmp_path: Path) -> None:
    """Shuffled, doubled, from a file: the same attempts. Another frame is refused in a sentence."""
    noted = book(flown(SERVER, runs=12)[0])
    expected = insight.flight_attempts(noted)
    noted.to_parquet(tmp_path / "book.parquet")
    noted.to_csv(tmp_path / "book.csv", index=False)
    again = [
        noted.sample(frac=1, random_state=1), pd.concat([noted, noted.head(7)]),
        pd.read_parquet(tmp_path / "book.parquet"), pd.read_csv(tmp_path / "book.csv", dtype={"activity_id": str}),
    ]  # fmt: skip
    for one in again:
        pd.testing.assert_frame_equal(insight.flight_attempts(one), expected)
    with pytest.raises(BadInput, match=r"has no .*activity_id.*insight\.flights"):
        insight.flight_attempts(expected)
    with pytest.raises(BadInput, match=r"book= is a frame that insight\.flights returned"):
        learn(flown(SERVER, runs=2)[1], book=expected)


def test_an_activity_that_only_one_of_them_knows_is_kept() -> None:
    """A worker without the plugin ran the second activity of each run; the history has its attempts."""
    world, told = flown(SERVER, runs=12)
    noted = book(world)
    charge = noted[noted["activity_type"] == "charge"]
    joined = insight.flight_attempts(charge, told)
    known = insight.history_attempts(told)
    assert (joined["step"] == "charge").sum() == len(charge)
    packed = known[known["step"] == "pack"]
    assert (
        joined.loc[joined["step"] == "pack", "outcome"].astype(str).tolist() == packed["outcome"].astype(str).tolist()
    )
    whole = insight.flight_attempts(noted, told[told["run_id"] == told["run_id"].iloc[0]])
    assert len(whole) == len(noted)
