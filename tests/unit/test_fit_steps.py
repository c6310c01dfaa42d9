"""What steps lend each other: shares by evidence, latencies only where a test finds no difference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls
from trellis.insight.fit import fit, learn
from trellis.insight.recommend import recommend
from trellis.insight.retries import predict
from trellis.insight.simulate import simulate
from trellis.policies import preset


def tried(
    seed: int, orders: int, works: dict[str, float], *, took: dict[str, tuple[float, float]] | None = None
) -> pd.DataFrame:
    """Each order tries each step until it works; the other calls raise. `works`: the share that works. `took`: the
    least and the longest duration [s] of a step's good calls."""
    rng = np.random.default_rng(seed)
    rows = []
    for order in range(orders):
        for step, share in works.items():
            least, longest = (took or {}).get(step, (0.01, 0.05))
            while rng.random() >= share:
                rows.append((f"o-{order}", step, "failed", 1.0))
            rows.append((f"o-{order}", step, "succeeded", 1000 * rng.uniform(least, longest)))
    return pd.DataFrame(rows, columns=["order_id", "step", "outcome", "duration_ms"])


def test_a_bad_step_beside_five_good_ones_comes_out_apart() -> None:
    """45 % of its calls fail, 15 % of the others', 20 orders: its true share lies in its interval, the shares come out
    apart, and the others' shares lie in their intervals too."""
    true = dict.fromkeys("abcde", 0.85) | {"f": 0.55}
    inside, apart, trials = 0, 0, 40
    for seed in range(trials):
        found = learn(tried(seed, 20, true)).steps
        inside += all(found[step].intervals["ok"][0] <= share <= found[step].intervals["ok"][1]
                      for step, share in true.items())  # fmt: skip
        apart += found["f"].shares["ok"] < min(found[step].shares["ok"] for step in "abcde")
    assert inside >= 36
    assert apart >= 37


def test_steps_that_are_alike_lend_each_other_evidence() -> None:
    """Six steps with the same calls: together they are nearer to the truth than each alone, and the words say so."""
    together, alone = [], []
    for seed in range(20):
        frame = tried(seed, 20, dict.fromkeys("abcdef", 0.5))
        learned = learn(frame)
        together += [found.shares["ok"] - 0.5 for found in learned.steps.values()]
        alone += [fit(rows).shares["ok"] - 0.5 for _, rows in frame.groupby("step")]
        assert "toward what all steps have in common" in learned.words() or "no step lends" in learned.words()
    assert np.square(together).sum() < 0.6 * np.square(alone).sum()
    with pytest.raises(BadInput, match="no attempts of refund"):
        learn(frame, ["a", "refund"])


def test_a_step_unlike_the_others_keeps_its_shares() -> None:
    """Where the steps differ by far more than chance, nothing is lent, and the words say that."""
    learned = learn(tried(1, 200, dict.fromkeys("abcde", 0.98) | {"f": 0.5}))
    assert max(found.lent for found in learned.steps.values()) < 0.05
    assert learned.steps["f"].shares["ok"] == pytest.approx(0.5, abs=0.08)
    assert learned.steps["a"].shares["ok"] > 0.94


def test_a_slow_step_keeps_its_latency() -> None:
    """Five steps of 10 ms and one that always takes 2 s, 20 workflows, all calls work: its timeout is longer."""
    took = dict.fromkeys("abcde", (0.009, 0.011)) | {"slow": (1.95, 2.05)}
    learned = learn(tried(2, 20, dict.fromkeys(took, 1.0), took=took))
    assert learned.steps["slow"].latency_p50 == pytest.approx(2, abs=0.1)
    assert learned.steps["a"].latency_p99 < 0.02
    assert "slow" not in learned.steps["a"].latency_of
    policy = recommend(30, 0.5, learned).policy
    assert policy.retry_of("slow").try_timeout > 2.05


def test_latencies_of_like_steps_are_put_together() -> None:
    """20 good calls say little about the slowest hundredth. Where the steps agree, 120 do, and the fit names them."""
    learned = learn(tried(3, 20, dict.fromkeys("abcdef", 0.9)))
    groups = [found.latency_of for found in learned.steps.values()]
    assert max(len(group) for group in groups) >= 2
    for found in learned.steps.values():
        assert all(0.01 <= one <= 0.05 for one in found.latency)


def test_three_good_calls_are_never_put_together_with_others() -> None:
    """No test tells three calls of 2 s from others: so the step keeps its own."""
    quick = tried(4, 20, dict.fromkeys("abc", 1.0))
    few = tried(4, 3, {"slow": 1.0}, took={"slow": (1.9, 2.1)})
    learned = learn(pd.concat([quick, few]))
    assert learned.steps["slow"].latency_of == ()
    assert min(learned.steps["slow"].latency) >= 1.9


def test_a_step_that_never_worked_is_named_and_refused_only_where_it_is_needed() -> None:
    """The others are learned. Its interval begins at 0, and at worst it never works."""
    never = pd.DataFrame({"order_id": "o-1", "step": "charge_card", "outcome": "failed", "duration_ms": [1.0] * 14})
    frame = pd.concat([tried(5, 20, {"reserve": 0.9}), never])
    learned = learn(frame)
    charge = learned.steps["charge_card"]
    assert charge.intervals["ok"][0] == 0.0
    assert charge.shares["ok"] == 0.0
    assert charge.at_worst.error + charge.at_worst.hang == pytest.approx(1.0)
    assert "none worked" in learned.words()
    assert learned.steps["reserve"].shares["ok"] == pytest.approx(0.9, abs=0.15)
    with pytest.raises(BadInput, match="`charge_card` never worked in 14 attempts: no policy helps before it does"):
        learned.check()
    assert learn(frame, ["reserve"]).check().needed == ["reserve"]
    with pytest.raises(BadInput, match="None of the 14 attempts worked"):
        learn(never)


def test_the_worst_case_of_a_chain_is_not_all_steps_at_their_worst() -> None:
    """Six independent estimates are never at their limits at once: the limit of P(missed) is nearer than that, and
    still worse than the estimate, and than any single step at its limit."""
    learned = learn(tried(6, 100, dict.fromkeys("abcdef", 0.7)))
    policy = preset("swift")

    def missed(calls: Mapping[str, Calls]) -> float:
        return predict(policy, calls).p_miss(0.35)

    worst = learned.worst(missed)
    assert missed(learned.calls) < worst < missed(learned.at_worst)
    assert worst >= max(missed({**learned.calls, step: learned.at_worst[step]}) for step in "abcdef")


def test_the_worst_case_covers_what_is_true() -> None:
    """P(missed) under the true shares is at most the worst case in at least 38 of 40 data sets."""
    policy, true = preset("swift"), {step: Calls(error=0.3, latency=(0.03,)) for step in "abcdef"}
    known = predict(policy, true).p_miss(0.4)
    covered = 0
    for seed in range(40):
        learned = learn(tried(seed, 40, dict.fromkeys("abcdef", 0.7), took=dict.fromkeys("abcdef", (0.03, 0.03))))
        covered += learned.worst(lambda calls: predict(policy, calls).p_miss(0.4)) >= known
    assert covered >= 38


def test_what_was_learned_is_predicted_in_one_call() -> None:
    """`Learned.predicted` runs the learned calls through the learned chain, with the measured overhead."""
    made = simulate(preset("swift"), FaultPlan.canonical(), orders=100, at_once=5, seed=3)
    learned = learn(made.attempts, runs=made.runs)
    found = learned.predicted(preset("swift"), deadline=5.0)
    same = predict(preset("swift"), learned.calls, deadline=5.0, **learned.setting)
    assert found.p_miss(5.0) == same.p_miss(5.0)
    assert found.percentile(0.5) == pytest.approx(float(made.runs["seconds"].median()), rel=0.15)
