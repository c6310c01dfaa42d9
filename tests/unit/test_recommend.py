"""Learning from attempts, and recommending a policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from trellis.errors import BadInput
from trellis.faults import FaultPlan, Mix
from trellis.insight.calls import Calls
from trellis.insight.chain import in_a_row
from trellis.insight.fit import fit, learn
from trellis.insight.load import Load
from trellis.insight.policy_words import one_in
from trellis.insight.recommend import recommend
from trellis.insight.retries import predict
from trellis.insight.simulate import simulate
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import preset, tuned

THIRDS = Mix(1 / 3, 1 / 3)


def made(seed: int, orders: int = 500, mix: Mix = THIRDS, hedge: int = 1) -> pd.DataFrame:
    """Attempts of `orders` orders of six steps, drawn one by one. When one lane of a hedge wins, the others are
    abandoned."""
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


@pytest.mark.parametrize("hedge", [1, 2, 4])
@pytest.mark.slow
def test_the_thirds_are_recovered_from_500_orders(hedge: int) -> None:
    """In at least 19 of 20 runs all three shares lie within their intervals, abandoned tries or not."""
    right = 0
    for seed in range(20):
        found = fit(made(seed, hedge=hedge))
        right += all(low <= 1 / 3 <= high for low, high in found.intervals.values())
        assert sum(found.shares.values()) == pytest.approx(1)
    assert right >= 19


def test_intervals_are_no_wider_than_the_data_ask() -> None:
    """9,000 tries fix a share to within two points: an interval that always covers would prove nothing."""
    found = fit(made(1))
    assert all(high - low < 0.03 for low, high in found.intervals.values())
    assert 0.02 < found.latency_p50 < 0.04
    assert "work" in found.words()


def test_latencies_under_several_timeouts_are_put_together() -> None:
    """Good calls take 0.3 s in the mean, exponentially; under 0.25, 1 and 3 s nearly all of their tail is recovered."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(9000):
        timeout, draw = (0.25, 1.0, 3.0)[number % 3], rng.random()
        took = np.inf if draw < 0.2 else rng.exponential(0.3)
        rows.append(("succeeded", took * 1000) if took < timeout else ("timed out", timeout * 1000))
    found = fit(pd.DataFrame(rows, columns=["outcome", "duration_ms"]))
    assert found.intervals["hang"][0] <= 0.2 <= found.intervals["hang"][1]
    assert found.latency_p50 == pytest.approx(0.3 * np.log(2), rel=0.1)
    assert found.latency_p99 == pytest.approx(0.3 * np.log(100), rel=0.2)


def test_failures_that_a_history_forgot_are_counted() -> None:
    """Only the last two attempts of an activity are in its history: the thirds come out all the same."""
    rng = np.random.default_rng(4)
    rows: list[tuple[str | None, float]] = []
    for _ in range(3000):
        kinds: list[str | None] = []
        while not kinds or kinds[-1] != "succeeded":
            kinds.append(str(rng.choice(["failed", "timed out", "succeeded"])))
        forgotten = len(kinds) - 2
        kinds[: max(0, forgotten)] = [None] * max(0, forgotten)
        rows += [(kind, 20.0 if kind == "succeeded" else np.nan) for kind in kinds]
    found = fit(pd.DataFrame(rows, columns=["outcome", "duration_ms"]))
    assert all(low <= 1 / 3 <= high for low, high in found.intervals.values())
    assert found.tries == len(rows)


def test_attempts_without_times_do_not_break_a_fit() -> None:
    """Local activities leave no start: they count, and the others' latencies stand."""
    frame = made(5, orders=50)
    frame.loc[frame.index[::3], "duration_ms"] = np.nan
    found = fit(frame)
    assert 0.02 < found.latency_p50 < 0.04
    alone = fit(pd.DataFrame({"outcome": ["succeeded"], "duration_ms": [np.nan]}))
    assert alone.latency == (0.0,) * len(alone.latency)


def named(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([frame.assign(step=step) for step, frame in frames.items()], ignore_index=True)


def test_one_bad_step_is_not_averaged_away() -> None:
    """Five calm steps, and a charge whose calls fail nine times in ten: each is learned by itself, and the prediction
    uses all of them."""
    mixes = {str(step): Mix(0.02, 0.01) for step in FORWARD_OUTSIDE_STEPS} | {"charge": Mix(0.5, 0.4)}
    learned = learn(named({step: made(6, 100, mix) for step, mix in mixes.items()}))
    assert max(found.lent for found in learned.steps.values()) < 0.1
    assert learned.steps["charge"].shares["ok"] == pytest.approx(0.1, abs=0.02)
    policy = tuned(preset("swift"), hedge=1)
    true = FaultPlan(Mix(0.02, 0.01, latency=0.03), steps={"charge": Mix(0.5, 0.4, latency=0.03)})
    assert predict(policy, learned.calls).p_miss(5) == pytest.approx(predict(policy, true).p_miss(5), rel=0.35)
    assert "charge: " in learned.words()


def test_few_tries_recommend_with_their_doubt() -> None:
    """Three good calls prove little, and the recommendation says how little."""
    learned = learn(pd.DataFrame({"step": "charge", "outcome": ["succeeded"] * 3, "duration_ms": [20.0] * 3}))
    found = recommend(5, 0.01, learned)
    assert not found.trust
    assert found.p_miss_at_worst is not None
    assert found.p_miss_at_worst > 0.01
    assert "charge has 3 attempts, which allow " in found.words()


@pytest.mark.parametrize(
    ("deadline", "mix"), [(60.0, Mix(0.1, 0.1, latency=2)), (3600.0, Mix(1 / 3, 1 / 3)), (1.0, Mix(latency=0.1))]
)
@pytest.mark.slow
def test_slow_calls_and_long_deadlines_get_an_answer(deadline: float, mix: Mix) -> None:
    """Calls of two seconds, a deadline of an hour: a policy whose promise holds."""
    found = recommend(deadline, 1e-3, FaultPlan(mix))
    assert predict(found.policy, FaultPlan(mix)).p_miss(deadline) <= 1.1e-3
    assert found.policy.retry.try_timeout > mix.latency


@pytest.mark.parametrize(
    ("epsilon", "max_calls"),
    [(0.0, None), (1.5, None), (float("nan"), None), (1e-15, None), (1e-3, 0.0), (1e-3, float("nan"))],
)
def test_nonsense_is_refused(epsilon: float, max_calls: float | None) -> None:
    """Shares out of range, values that cannot be computed, and limits below one call are refused."""
    with pytest.raises(BadInput, match=r"epsilon|at least one call"):
        recommend(15, epsilon, max_calls=max_calls)


def test_another_mix_is_told_from_the_thirds() -> None:
    """A tenth of errors and a twentieth of hangs are found as such."""
    found = fit(made(2, mix=Mix(0.1, 0.05)))
    assert found.shares["error"] == pytest.approx(0.1, abs=0.02)
    assert found.shares["hang"] == pytest.approx(0.05, abs=0.015)


def test_nothing_to_learn_from_is_refused_with_a_sentence() -> None:
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


@pytest.mark.slow
def test_a_tighter_deadline_costs_more_calls() -> None:
    """When time is short only hedging helps, and the recommendation pays for it."""
    assert recommend(1.0, 0.01).calls_per_step > recommend(15, 0.01).calls_per_step
    assert recommend(1.0, 0.01).policy.retry.hedge > 1


@pytest.mark.slow
def test_a_slow_step_gets_a_rule_of_its_own() -> None:
    """The dispatch takes 0.8 s and fails often, the other steps are quick: only its rule has a long timeout."""
    chain = {str(step): Calls(0.05, 0.05, latency=(0.02,)) for step in FORWARD_OUTSIDE_STEPS}
    chain["dispatch"] = Calls(0.3, 0.3, latency=(0.8,))
    found = recommend(6, 1e-3, chain)
    policy = found.policy.check()
    assert list(policy.steps) == ["dispatch"]
    assert policy.retry_of("dispatch").try_timeout > 0.8 > policy.retry_of("charge").try_timeout
    assert f"; for dispatch timeout {policy.steps['dispatch'].try_timeout:g} s" in found.words()
    assert predict(policy, chain).p_miss(6) <= 1.1e-3
    one_rule = found.frontier[(found.frontier["p_miss"] <= 1e-3) & (found.frontier["name"] != policy.name)]
    assert found.calls_per_step <= 0.95 * one_rule["calls_per_step"].min()
    assert found.frontier.set_index("name").loc[policy.name, "pareto"]


@pytest.mark.slow
def test_one_rule_is_kept_where_others_save_little() -> None:
    """Under the canonical thirds and 15 s every step needs three calls, whatever its rule: there is one for all."""
    assert recommend(15, 1e-5).policy.steps == {}


def test_rules_of_single_steps_reach_what_no_single_rule_does() -> None:
    """1 % late after 1.5 s with 3.1 calls a step: a second lane for every step costs 3.3, so only some have it."""
    found = recommend(1.5, 0.01, max_calls=3.1)
    assert found.p_miss <= 0.01
    assert found.calls_per_step <= 3.1
    assert {found.policy.retry_of(step).hedge for step in FORWARD_OUTSIDE_STEPS} == {1, 2}


@pytest.mark.parametrize(
    ("deadline", "epsilon", "max_calls", "words"),
    [(0.2, 1e-9, None, "No policy reaches 1e-09 in 0.2 s; the best is"), (15, 1e-5, 2.0, "manages with 2 calls")],
)
@pytest.mark.slow
def test_an_impossible_goal_is_one_sentence(
    deadline: float, epsilon: float, max_calls: float | None, words: str
) -> None:
    """If no policy is good enough, the sentence names the best one."""
    with pytest.raises(BadInput, match=words):
        recommend(deadline, epsilon, max_calls=max_calls)


def test_slow_good_calls_rule_short_timeouts_out() -> None:
    """Good calls of 0.2 s need longer timeouts: no recommendation cuts them off."""
    found = recommend(60, 1e-3, FaultPlan(Mix(0.2, 0.2, latency=0.2)))
    assert found.policy.retry.try_timeout >= 0.6


def test_small_shares_read_well() -> None:
    """Words for shares, from per cent to fewer than one in a trillion."""
    assert [one_in(share) for share in (0.41, 0.001, 6.25e-7, 0.0)] == [
        "41% of orders", "1 in 1,000 orders", "1 in 1.6 million orders", "fewer than 1 in a trillion orders",
    ]  # fmt: skip


def test_simulated_orders_of_a_busy_server_are_trusted() -> None:
    """Forty orders at a time, each try a draw of its own: a call that hangs is in flight for long, and that is no load
    under which calls fail."""
    made = simulate(preset("swift"), FaultPlan.canonical(), orders=600, at_once=40, seed=4)
    found = recommend(15, 1e-2, learn(made.attempts, runs=made.runs))
    assert found.trust, found.words()
    assert found.today == float((made.runs["seconds"] > 15).mean())


def test_a_load_reaches_the_prediction() -> None:
    """How many orders share the server is given, not learned. Timers fire earlier beside a few others than alone."""
    made = simulate(preset("patient"), FaultPlan.canonical(), orders=60, at_once=3, seed=4)
    learned = learn(made.attempts, runs=made.runs)
    alone, beside = (replace(learned, load=load).predicted(preset("patient")) for load in (None, Load(3)))
    assert beside.percentile(0.5) < alone.percentile(0.5)
    assert recommend(60, 0.5, learned, load=Load(3)).p50 <= recommend(60, 0.5, learned).p50


def test_strangers_steps_run_in_workflows() -> None:
    """Steps that are no order's are not called an order's, in advice and in refusals. Many miss, one misses."""
    ask = in_a_row(["ask"])
    assert "workflows misses 5 s" in recommend(5, 1e-2, steps=ask).words()
    with pytest.raises(BadInput, match=r"\d% of workflows miss\.$"):
        recommend(0.01, 1e-2, steps=ask)
