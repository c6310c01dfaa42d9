"""What a recommendation assumes, checked against data that are made here, by loops that know nothing of the package's
formulas."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from trellis.faults import FaultPlan
from trellis.insight.checks import Check, checked, independent
from trellis.insight.checks.draws import draws
from trellis.insight.checks.measured import upper_limit
from trellis.insight.fit import Learned, learn
from trellis.insight.recommend import recommend
from trellis.insight.simulate import simulate
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import Policy, preset, tuned

BEGAN = pd.Timestamp("2026-11-21T10:00:00Z")
STEPS = [str(step) for step in FORWARD_OUTSIDE_STEPS]
Rng = np.random.Generator
Drawn = Callable[[Rng], float]


def quick(rng: Rng) -> float:
    return float(rng.uniform(0.01, 0.05))


def a_second(rng: Rng, failures: int) -> float:
    """The pause after a failure, as Temporal's server makes it."""
    return 1.0


def a_moment(rng: Rng, failures: int) -> float:
    """The pause of a loop inside an activity."""
    return float(rng.uniform(0, min(0.05, 0.005 * 2 ** (failures - 1))))


def world(
    seed: int,
    *,
    orders: int = 450,
    at_once: int = 10,
    rate: float | None = None,
    error: float = 0.02,
    hang: float = 0.0,
    timeout: float = 2.0,
    latency: Drawn = quick,
    pause: Callable[[Rng, int], float] = a_second,
    outage: tuple[float, float] | None = None,
    bad_orders: float = 0.0,
    places: int = 0,
    workers: dict[str, float] | None = None,
    policy: Policy | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(attempts, orders) of orders with six steps. `rate`: orders per second; without it, `at_once` are kept running.
    All calls raise during an `outage` [s]. Half of the calls of `bad_orders` raise. A provider with `places` serves
    that many calls at a time, each for `latency`; the others wait. `workers`: shares of errors, instead of `error`."""
    rng = np.random.default_rng(seed)
    waiting: list[tuple[float, int, int, int]] = []
    if rate is None:
        waiting += [(rng.uniform(0, 1), order, 0, 1) for order in range(min(at_once, orders))]
    else:
        waiting += [(at, order, 0, 1) for order, at in enumerate(np.cumsum(rng.exponential(1 / rate, orders)))]
    heapq.heapify(waiting)
    following = len(waiting)
    bad = rng.random(orders) < bad_orders
    free = [0.0] * places
    began: dict[int, float] = {}
    tries, ended = [], []
    while waiting:
        at, order, step, number = heapq.heappop(waiting)
        began.setdefault(order, at)
        worker = str(rng.choice(list(workers))) if workers else "worker-1"
        raises = workers[worker] if workers else 0.5 if bad[order] else error
        if outage and outage[0] <= at < outage[1]:
            raises = 1.0
        draw = rng.random()
        took = latency(rng)
        if places:
            place = int(np.argmin(free))
            free[place] = max(at, free[place]) + took
            took = free[place] - at
        outcome = "succeeded"
        if draw < raises:
            outcome, took = "failed", 0.0005
        elif draw < raises + hang or took > timeout:
            outcome, took = "timed out", timeout
        tries.append((f"o{order}", STEPS[step], number, worker, outcome, at, at + took, took * 1000))
        if outcome != "succeeded":
            heapq.heappush(waiting, (at + took + pause(rng, number), order, step, number + 1))
        elif step + 1 < len(STEPS):
            heapq.heappush(waiting, (at + took + rng.uniform(0, 0.02), order, step + 1, 1))
        else:
            ended.append((f"o{order}", began[order], at + took))
            if following < orders:
                heapq.heappush(waiting, (at + took + rng.uniform(0, 0.02), following, 0, 1))
                following += 1
    names = ["order_id", "step", "attempt", "worker", "outcome", "started_at", "ended_at", "duration_ms"]
    attempts = pd.DataFrame(tries, columns=names).assign(round=0, execution=1, lane=0)
    runs = pd.DataFrame(ended, columns=["order_id", "began_at", "ended_at"]).assign(state="COMPLETED")
    runs["seconds"] = runs["ended_at"] - runs["began_at"]
    runs["policy_json"] = json.dumps(asdict(policy or preset("patient")))
    for frame in (attempts, runs):
        for name in {"began_at", "started_at", "ended_at"} & set(frame.columns):
            frame[name] = BEGAN + pd.to_timedelta(frame[name], unit="s")
    return attempts, runs


def learned_in(seed: int, **given: object) -> Learned:
    attempts, runs = world(seed, **given)  # type: ignore[arg-type]
    return learn(attempts, runs=runs)


def named(checks: tuple[Check, ...], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def queue_of_ten(rng: Rng) -> float:
    return float(0.1 * rng.lognormal(-0.125, 0.5))


SWIFT = tuned(preset("swift"), try_timeout=2.0)


@pytest.mark.parametrize(
    ("given", "deadline", "words"),
    [
        ({"outage": (5, 25)}, 15, "Failures come in runs"),
        ({"outage": (5, 7), "pause": a_moment, "policy": SWIFT}, 15, "Failures come in runs"),
        ({"bad_orders": 0.1}, 15, "Some orders are worse than others"),
        ({"places": 10, "rate": 70 / 6, "latency": queue_of_ten, "error": 0.0, "policy": SWIFT}, 1, "come under load"),
        ({"workers": {"a": 0.02, "b": 0.02, "c": 0.3}}, 15, "Some workers are worse than others"),
    ],
    ids=["outage", "outage that fast retries over-sample", "bad orders", "a provider of ten places", "a bad worker"],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_what_breaks_independence_is_named(given: dict[str, object], deadline: float, words: str, seed: int) -> None:
    """An outage, bad orders, a full provider and a bad worker: the check fails and says which it is."""
    check = named(checked(learned_in(seed, **given), deadline), "independent")
    assert not check.ok
    assert words in check.words


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"error": 0.33, "hang": 0.33, "timeout": 0.25, "pause": a_moment, "policy": preset("swift")},
        {"error": 0.1, "hang": 0.05, "orders": 200},
        {"rate": 5.0, "latency": lambda rng: float(rng.choice([0.01, 0.3]))},
        {"workers": {"a": 0.02, "b": 0.02, "c": 0.02}},
    ],
    ids=["two in a hundred", "thirds", "200 orders", "two kinds of latency", "three workers"],
)
def test_honest_data_pass_every_check(given: dict[str, object]) -> None:
    """Independent tries, enough of them, and the policy that was in force: the recommendation may be trusted."""
    checks = checked(learned_in(3, **given), 15)
    assert [check.name for check in checks] == ["enough", "independent", "durations", "chain"]
    assert [check.words for check in checks if not check.ok] == []


def test_honest_data_rarely_raise_a_false_alarm() -> None:
    """Of 60 honest data sets, in which latencies matter too, at most two show a pattern. In 500 there were none (see
    docs/design.md)."""
    alarms = 0
    for seed in range(60):
        kind = [{"error": 0.3, "hang": 0.1, "pause": a_moment}, {}, {"rate": 20.0, "error": 0.1}][seed % 3]
        attempts, _ = world(100 + seed, orders=60 + 5 * seed, **kind)  # type: ignore[arg-type]
        alarms += not independent.check(draws(attempts), 0.2).ok
    assert alarms <= 2


def test_latencies_that_do_not_matter_are_left_alone() -> None:
    """Calls that queue for milliseconds, and a deadline of a minute: that they depend on each other changes nothing."""
    attempts, _ = world(4, places=10, rate=70 / 6, latency=queue_of_ten, error=0.0)
    found = draws(attempts)
    assert not independent.check(found, 1).ok
    assert independent.check(found, 60).ok


def test_durations_that_the_model_cannot_give_are_seen() -> None:
    """Every order waits for three seconds between its steps, which no attempt shows: the model is too fast."""
    attempts, runs = world(5)
    slow = runs.assign(seconds=runs["seconds"] + 3)
    given = list(dict.fromkeys(attempts["step"].astype(str)))
    check = named(checked(learn(attempts, given, runs=slow), 15), "durations")
    assert not check.ok
    assert "The model does not fit" in check.words


def test_an_outage_is_refused_in_the_first_words() -> None:
    """Ten of 450 orders missed 15 s. The sentence begins with why, and no figure is better than the limit of that."""
    learned = learned_in(3, outage=(5, 25))
    found = recommend(15, 1e-5, learned)
    took = learned.runs["seconds"]
    limit = upper_limit(int((took > 15).sum()), len(took))
    assert not found.trust
    assert found.words().startswith("Do not rely on this advice. Failures come in runs")
    assert found.p_miss >= limit
    assert found.p_miss_at_worst is not None
    assert found.p_miss_at_worst >= limit
    assert found.frontier["p_miss"].min() >= limit
    assert found.p99 >= took.quantile(0.99)
    assert found.today == pytest.approx((took > 15).mean())
    assert "billion" not in found.words()
    assert found.policy.retry.hedge == 1


def test_a_full_provider_gets_no_second_lane() -> None:
    """Seven of ten places are taken on average. Twice the calls would fill them for ever, so no lanes are advised."""
    learned = learned_in(
        1, places=10, rate=70 / 6, latency=queue_of_ten, error=0.0, policy=SWIFT, pause=a_moment, timeout=2.0
    )
    found = recommend(1, 0.5, learned)
    assert not found.trust
    assert {found.policy.retry_of(step).hedge for step in STEPS} == {1}
    assert set(found.frontier["hedge"]) == {1}


def test_the_headline_is_the_worst_case() -> None:
    """Honest data: the sentence gives the worst case first, then the estimate, then what is measured today."""
    found = recommend(15, 1e-5, learned_in(3))
    assert found.trust
    assert found.p_miss_at_worst is not None
    assert found.p_miss_at_worst > found.p_miss
    words = found.words()
    assert words.index("at worst 1 in") < words.index("by the estimate")
    assert "Today 0 % miss 15 s: 0 of 450 orders, so the true share is at most 0.66 % (95 % limit)." in words


def test_one_attempt_is_not_enough() -> None:
    """One good call proves nothing. No figure is better than what was measured, which is nothing."""
    one = pd.DataFrame({"order_id": ["o1"], "step": ["charge"], "outcome": ["succeeded"], "duration_ms": [20.0]})
    found = recommend(15, 1e-5, learn(one.assign(started_at=BEGAN, ended_at=BEGAN + pd.Timedelta("20ms"))))
    assert not found.trust
    assert "There are not enough attempts: charge has 1 attempt" in found.words()
    assert "trillion" not in found.words()
    assert found.p_miss >= 0.95


def test_attempts_without_times_are_not_called_independent() -> None:
    """Without times nobody can tell whether failures came together."""
    attempts, _ = world(6)
    check = independent.check(draws(attempts.drop(columns=["started_at", "ended_at"])), 15)
    assert not check.ok
    assert "no start time" in check.words


def test_failures_that_a_history_forgot_are_placed_in_time() -> None:
    """A history gives no times to failed attempts. An outage shows all the same, because they lie between the times at
    which the activity was scheduled and last started."""
    attempts, _ = world(3, outage=(5, 25))
    same = attempts.groupby(["order_id", "step"])
    attempts["scheduled_at"] = same["started_at"].transform("min")
    last = same["attempt"].transform("max") == attempts["attempt"]
    for name in ("started_at", "ended_at", "duration_ms"):
        attempts[name] = attempts[name].where(last)
    attempts["outcome"] = attempts["outcome"].where(last, "unknown")
    assert "come in runs" in independent.check(draws(attempts), 15).words


def test_attempts_whose_worker_is_not_known_are_no_bad_worker() -> None:
    """A history names the worker of an activity's last attempt only: all attempts without a name failed."""
    attempts, _ = world(3)
    attempts["worker"] = attempts["worker"].where(attempts["outcome"] == "succeeded")
    assert independent.check(draws(attempts), 15).ok


def test_a_race_of_lanes_is_one_draw() -> None:
    """Two lanes: one draw for each step of each order, and it failed only if both first tries failed."""
    rows = [
        ("o1", "charge", 0, "failed", 0.0, 1.0), ("o1", "charge", 1, "succeeded", 0.0, 30.0),
        ("o1", "charge", 0, "abandoned", 0.01, 20.0), ("o2", "charge", 0, "failed", 1.0, 1.0),
        ("o2", "charge", 1, "failed", 1.0, 1.0), ("o2", "charge", 1, "succeeded", 1.01, 30.0),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["order_id", "step", "lane", "outcome", "at", "duration_ms"])
    frame = frame.assign(round=0, execution=1, started_at=BEGAN + pd.to_timedelta(frame["at"], unit="s"))
    found = draws(frame.assign(ended_at=frame["started_at"] + pd.to_timedelta(frame["duration_ms"], unit="ms")))
    assert list(found.failed) == [False, True]
    assert found.hedged
    assert list(found.seconds) == pytest.approx([0.03, np.nan], nan_ok=True)


def test_the_limit_of_a_share_without_a_miss_is_three_over_n() -> None:
    """The rule of three, and no promise from no runs."""
    assert upper_limit(0, 300) == pytest.approx(3 / 300, rel=0.01)
    assert upper_limit(0, 0) == 1.0


@pytest.mark.parametrize(
    ("attempts", "runs", "failed"),
    [
        ({"step": None}, {}, set()),
        ({"order_id": None}, {}, set()),
        ({"duration_ms": -5.0}, {}, set()),
        ({"duration_ms": np.nan}, {}, set()),
        ({}, {"seconds": np.nan}, set()),
        ({}, {"state": "FAILED"}, {"durations"}),
        ({}, {"state": "CANCELLED"}, set()),
        ({}, {"policy_json": "{"}, set()),
    ],
    ids=lambda value: str(value),
)
def test_a_third_of_the_rows_may_be_damaged(
    attempts: dict[str, object], runs: dict[str, object], failed: set[str]
) -> None:
    """Missing values, clocks that ran backwards, and policies that cannot be read are left out. Only runs that failed
    contradict the model."""
    frames = list(world(7))
    for frame, damage in zip(frames, (attempts, runs), strict=True):
        third = pd.Series(np.arange(len(frame)) % 3 > 0, index=frame.index)
        for name, value in damage.items():
            frame[name] = frame[name].where(third, value)
    checks = checked(learn(frames[0], runs=frames[1]), 15)
    assert {check.name for check in checks if not check.ok} == failed


def test_frames_in_any_order_give_the_same_checks() -> None:
    """Rows in another order: the same words."""
    attempts, runs = world(3, outage=(5, 25))
    mixed = learn(attempts.sample(frac=1, random_state=1), runs=runs.sample(frac=1, random_state=2))
    assert named(checked(mixed, 15), "independent") == named(checked(learn(attempts, runs=runs), 15), "independent")


@pytest.mark.parametrize("name", ["swift", "patient"])
def test_a_policy_can_be_pasted(name: str) -> None:
    """The advice as arguments of `execute_activity`: Python that can be read, with what a RetryPolicy cannot do."""
    from datetime import timedelta

    from temporalio.common import RetryPolicy

    import trellis.retrying
    from trellis.insight.policy_words import as_options

    text = as_options(preset(name), STEPS)
    blocks = ["start_to_close" + part.split("\n# ")[0] for part in text.split("\nstart_to_close")[1:]]
    known = {"timedelta": timedelta, "RetryPolicy": RetryPolicy}
    made = [eval(f"dict({block})", known) for block in blocks]
    assert made
    for one in made:
        assert one["start_to_close_timeout"] <= one["schedule_to_close_timeout"]
        one["retry_policy"]._validate()
    loops = [part.split("\n# and where")[0] for part in text.split("\n@")[1:]]
    rules = [eval(loop, vars(trellis.retrying))._rule for loop in loops]
    assert set(rules) == ({preset(name).retry_of(step) for step in STEPS} if name == "swift" else set())
    assert ("the server's timers take about 1 s" in text) == (name == "swift")


def test_attempts_that_do_not_name_their_order_are_not_called_independent() -> None:
    """Without the orders' ids nobody can see that some orders are worse than others."""
    made = simulate(preset("swift"), FaultPlan.canonical(), orders=200, at_once=5, seed=3)
    found = recommend(15, 1e-2, learn(made.attempts.drop(columns="order_id"), runs=made.runs))
    assert not found.trust
    assert "do not say of which order" in found.words()
