"""Frames that people hand in to learn from: a right answer, or one sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.traps.calls import Mix, mixed
from tests.traps.frames import history
from tests.traps.honest import sequence
from tests.traps.world import Rule, World
from trellis.errors import BadInput
from trellis.insight.fit import learn
from trellis.insight.history import history_attempts
from trellis.policies import Placement, Retry


def frame(orders: int = 40) -> pd.DataFrame:
    """Attempts of two steps: one of three calls raises, every order ends well."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, object]] = []
    for order in range(orders):
        at = pd.Timestamp("2026-03-01", tz="UTC") + pd.Timedelta(seconds=10 * order)
        for step in ("charge", "ship"):
            number = 0
            while not number or rows[-1]["outcome"] != "succeeded":
                number += 1
                took = pd.Timedelta(milliseconds=float(rng.uniform(10, 50)))
                rows.append(
                    {"order_id": f"o-{order}", "step": step, "attempt": number, "round": 0, "execution": number,
                     "try": 1, "lane": 0, "outcome": "failed" if rng.random() < 1 / 3 else "succeeded",
                     "started_at": at, "ended_at": at + took, "duration_ms": took.total_seconds() * 1000,
                     "skewed": False}
                )  # fmt: skip
                at += took
    return pd.DataFrame(rows)


def test_a_frame_that_was_saved_and_read_again_gives_the_same(tmp_path: Path) -> None:
    """A .csv keeps no dtypes and a .parquet does: both give the same shares and the same durations of runs."""
    made = frame()
    made.to_csv(tmp_path / "a.csv", index=False)
    made.to_parquet(tmp_path / "a.parquet")
    first = learn(made)
    for again in (learn(pd.read_csv(tmp_path / "a.csv")), learn(pd.read_parquet(tmp_path / "a.parquet"))):
        assert again.words() == first.words()
        assert list(again.runs["seconds"]) == pytest.approx(list(first.runs["seconds"]))


def test_frames_that_were_put_together_count_each_try_once() -> None:
    """Two frames that overlap, with the same index: the tries of both, none twice."""
    made = frame()
    assert learn(pd.concat([made, made.head(30)])).tries == learn(made).tries == len(made)


def test_attempts_of_a_wrong_clock_count_without_their_durations() -> None:
    """A duration below 0 is not a time: the attempt counts, its latency does not."""
    made = frame()
    wrong = made.index[::7]
    made.loc[wrong, "duration_ms"] = -5000.0
    made.loc[wrong, "ended_at"] = made.loc[wrong, "started_at"] - pd.Timedelta(seconds=5)
    learned = learn(made)
    assert learned.tries == len(made)
    assert all(min(found.latency) >= 0.01 for found in learned.steps.values())
    assert (learned.runs["seconds"] >= 0).all()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (frame().head(0), "the frame is empty"),
        (frame().drop(columns="outcome"), "has no outcome"),
        (frame().assign(outcome="abandoned"), "None of the .* attempts worked"),
        (frame().assign(outcome="great"), "cannot be 'great'"),
        (frame().assign(outcome="open"), "that ended"),
        (frame().assign(namespace=["a"] * 20 + ["b"] * (len(frame()) - 20)), r"several namespaces \(a, b\)"),
    ],
)
def test_a_frame_that_says_nothing_is_one_sentence(made: pd.DataFrame, words: str) -> None:
    """Empty, censored throughout, of two namespaces, or no frame of attempts at all."""
    with pytest.raises(BadInput, match=words):
        learn(made)


def test_calls_without_times_give_shares_and_no_advice() -> None:
    """How often they work is known. A timeout cannot be judged, and the sentence says why."""
    learned = learn(frame().assign(duration_ms=np.nan))
    assert learned.steps["charge"].shares["ok"] == pytest.approx(2 / 3, abs=0.15)
    with pytest.raises(BadInput, match="`charge` that worked has both a start and an end"):
        learned.check()


def test_one_attempt_is_learned_with_all_its_doubt() -> None:
    """One call that worked: its share may be nearly anything."""
    found = learn(frame().query("outcome == 'succeeded'").head(1)).steps["charge"]
    assert found.shares["ok"] == 1.0
    assert found.intervals["ok"][0] < 0.02


def test_the_policy_in_force_of_a_stranger_is_that_of_its_activities() -> None:
    """The six columns of a history's attempts become a retry rule for each step, with Temporal's defaults."""
    made = frame().assign(
        start_to_close_timeout=lambda rows: np.where(rows["step"] == "ship", 30.0, 5.0),
        schedule_to_close_timeout=np.nan,
        initial_interval=1.0,
        backoff_coefficient=2.0,
        maximum_interval=np.nan,
        maximum_attempts=0,
        queue="q",
    )
    learned = learn(made, ["charge", "ship"])
    assert learned.noun == "workflow"
    assert learned.in_force is not None
    assert learned.in_force.retry_of("ship") == Retry(30.0, 1.0, 100.0, placement=Placement.SERVER)
    assert learned.in_force.retry_of("charge").try_timeout == 5.0


def test_failures_of_which_nothing_is_known_may_all_have_hung() -> None:
    """A local activity's history counts the tries that failed, and does not say how: the worst case is that each hung,
    and the share of good calls is as well known as ever."""
    made = frame(100)
    shares = learn(made).steps["charge"].shares
    failed = made["outcome"] == "failed"
    made.loc[failed, ["started_at", "ended_at"]] = pd.NaT
    made.loc[failed, "duration_ms"] = np.nan
    found = learn(made.assign(outcome=made["outcome"].replace("failed", "unknown"))).steps["charge"]
    assert found.shares["ok"] == pytest.approx(shares["ok"])
    assert found.intervals["hang"][1] == pytest.approx(1.0 - found.intervals["ok"][0])
    assert found.at_worst.hang > shares["error"]


def test_runs_of_other_attempts_are_refused() -> None:
    """The frames of attempts and of orders are of two times: what one measured says nothing about the other."""
    made = frame()
    runs = pd.DataFrame({"order_id": ["other-1", "other-2"], "seconds": [1.0, 2.0]})
    with pytest.raises(BadInput, match="None of these orders has an attempt"):
        learn(made, runs=runs)


HISTORY = history(World(sequence("ask", "act"), mixed(Mix(0.1)), Rule(2.0, 0.1, 1.0, by_server=True)).simulate(40))


def damaged(what: str) -> pd.DataFrame:
    """A history of which something is missing."""
    made = HISTORY.copy()
    match what:
        case "names and tasks":
            made.loc[made.index[::7], "name"] = np.nan
            made.loc[made.index[::5], "task"] = pd.NA
        case "times":
            made[["scheduled_at", "started_at", "ended_at"]] = pd.NaT
        case "workflows":
            made = made[made["kind"] != "workflow"]
        case "all but activities' ends":
            made = made[made["outcome"] == "succeeded"].drop(columns=["task", "worker", "namespace"])
    return made


@pytest.mark.parametrize("what", ["names and tasks", "times", "workflows", "all but activities' ends"])
def test_a_damaged_history_is_learned_from_or_refused_in_one_sentence(what: str) -> None:
    """No exception of pandas comes out, from a whole history or from its attempts."""
    for made in (damaged(what), history_attempts(damaged(what))):
        with contextlib.suppress(BadInput):
            assert learn(made).noun == "workflow"


def test_attempts_of_two_namespaces_are_refused() -> None:
    """The attempts of a history know the namespace too."""
    made = HISTORY.copy()
    made["namespace"] = made["namespace"].astype(object)
    made.loc[made.index[::2], "namespace"] = "other"
    with pytest.raises(BadInput, match="several namespaces"):
        learn(history_attempts(made))


def test_a_history_in_any_order_teaches_the_same() -> None:
    """Someone sorted the frame by something else: attempts keep their numbers, and activities their order."""
    first, again = (learn(one) for one in (HISTORY, HISTORY.sample(frac=1.0, random_state=1)))
    assert again.words() == first.words()
    assert again.chain == first.chain
    columns = ["order_id", "step", "attempt", "execution", "outcome"]
    made, same = (one.attempts[columns].astype(str).sort_values(columns[:3]).to_numpy() for one in (first, again))
    assert (made == same).all()
