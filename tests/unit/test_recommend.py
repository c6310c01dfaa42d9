"""Learning from attempts, and recommending a policy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trellis.errors import BadInput
from trellis.faults import FaultPlan, Mix
from trellis.insight.fit import fit
from trellis.insight.recommend import one_in, recommend
from trellis.insight.retries import predict

THIRDS = Mix(1 / 3, 1 / 3)


def made(seed: int, orders: int = 500, mix: Mix = THIRDS, hedge: int = 1) -> pd.DataFrame:
    """Attempts of so many orders of six steps, drawn one by one; losers of a hedge are abandoned when one wins."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, float]] = []
    for _ in range(orders * 6):
        lanes: list[list[tuple[float, str, float]]] = []
        for _ in range(hedge):
            at, tries = 0.0, []
            while True:
                draw = rng.random()
                kind = "failed" if draw < mix.error else "timed out" if draw < mix.error + mix.hang else "succeeded"
                spent = {"failed": 0.0, "timed out": 0.25, "succeeded": rng.uniform(0.01, 0.05)}[kind]
                tries.append((at, kind, spent))
                at += spent + rng.uniform(0, 0.02)
                if kind == "succeeded":
                    break
            lanes.append(tries)
        won = min(tries[-1][0] + tries[-1][2] for tries in lanes)
        for tries in lanes:
            for at, kind, spent in tries:
                if at + spent <= won:
                    rows.append((kind, spent * 1000))
                elif at < won:
                    rows.append(("abandoned", (won - at) * 1000))
    return pd.DataFrame(rows, columns=["outcome", "duration_ms"])


@pytest.mark.parametrize("hedge", [1, 2])
def test_the_thirds_are_recovered_from_500_orders(hedge: int) -> None:
    """In at least 19 of 20 runs all three shares lie within their intervals, abandoned tries or not."""
    right = 0
    for seed in range(20):
        found = fit(made(seed, orders=500 // hedge, hedge=hedge))
        right += all(low <= 1 / 3 <= high for low, high in found.intervals.values())
        assert sum(found.shares.values()) == pytest.approx(1)
    assert right >= 19


def test_intervals_are_no_wider_than_the_data_ask() -> None:
    """9,000 tries fix a share to within two points: an interval that always covers would prove nothing."""
    found = fit(made(1))
    assert all(high - low < 0.03 for low, high in found.intervals.values())
    assert 0.02 < found.latency_p50 < 0.04
    assert "work" in found.words()


def test_another_mix_is_told_from_the_thirds() -> None:
    """A tenth of errors and a twentieth of hangs are found as such."""
    found = fit(made(2, mix=Mix(0.1, 0.05)))
    assert found.shares["error"] == pytest.approx(0.1, abs=0.02)
    assert found.shares["hang"] == pytest.approx(0.05, abs=0.015)


def test_nothing_to_learn_from_is_said() -> None:
    """An empty ledger, or one in which nothing worked, gives a sentence and not a zero."""
    empty = pd.DataFrame({"outcome": pd.Series(dtype="str"), "duration_ms": pd.Series(dtype="float64")})
    with pytest.raises(BadInput, match="no attempts"):
        fit(empty)


def test_a_recommended_policy_keeps_its_promise() -> None:
    """Under the canonical thirds 15 s and 1e-5 can be had; the prediction of the policy itself agrees."""
    found = recommend(15, 1e-5)
    assert found.p_miss <= 1e-5
    assert predict(found.policy.check()).p_miss(15) == pytest.approx(found.p_miss, rel=0.05)
    assert found.calls_per_step == pytest.approx(3, rel=0.01)
    assert "misses 15 s; costs 3.0 calls a step" in found.words()
    chosen = found.frontier.set_index("name").loc[found.policy.name]
    gentler = found.frontier[(found.frontier["try_timeout"] > chosen["try_timeout"]) & (found.frontier["hedge"] == 1)]
    assert (gentler["p_miss"] > 1e-5).all()


def test_a_tighter_deadline_costs_more_calls() -> None:
    """When time is short only hedging helps, and the recommendation pays for it."""
    assert recommend(1.0, 0.01).calls_per_step > recommend(15, 0.01).calls_per_step
    assert recommend(1.0, 0.01).policy.retry.hedge > 1


@pytest.mark.parametrize(
    ("deadline", "epsilon", "max_calls", "words"),
    [(0.2, 1e-9, None, "No policy reaches 1e-09 in 0.2 s; the best is"), (15, 1e-5, 2.0, "makes do with 2 calls")],
)
def test_what_cannot_be_had_is_said(deadline: float, epsilon: float, max_calls: float | None, words: str) -> None:
    """An impossible wish gets a sentence that names the best there is."""
    with pytest.raises(BadInput, match=words):
        recommend(deadline, epsilon, max_calls=max_calls)


def test_slow_good_calls_rule_short_timeouts_out() -> None:
    """Good calls of 0.2 s need timeouts well above: nobody is told to cut them off."""
    found = recommend(60, 1e-3, FaultPlan(Mix(0.2, 0.2, latency=0.2)))
    assert found.policy.retry.try_timeout >= 0.6


def test_small_shares_read_well() -> None:
    """Words for shares, from per cent to fewer than one in a trillion."""
    assert [one_in(share) for share in (0.41, 0.001, 6.25e-7, 0.0)] == [
        "41% of orders", "1 in 1,000 orders", "1 in 1.6 million orders", "fewer than 1 in a trillion orders",
    ]  # fmt: skip
