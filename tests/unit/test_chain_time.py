"""Chains of steps: loops, branches, choices and rounds, against the same chains played at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trellis.errors import BadInput, ConfigError
from trellis.insight.calls import Calls, Overhead
from trellis.insight.chain import ORDER, Choice, Measured, Parallel, Part, Repeat, Rounds, Series, Step
from trellis.insight.chain_text import parse
from trellis.insight.per_step import cheapest_mix
from trellis.insight.retries import marginal, predict, sweep
from trellis.policies import Policy, Retry, preset, tuned

NOTHING = Overhead(0.0, 0.0, 0.0)
ALIKE = replace(preset("swift"), steps={}, budget=1000.0)
CALLS = {
    "a": Calls(0.3, 0.2, latency=(0.02, 0.05)),
    "b": Calls(0.1, 0.1, latency=(0.1,)),
    "c": Calls(0.0, 0.4, latency=(0.01, 0.3)),
}
PLAYED = 20_000


class World:
    """Plays chains, many runs at a time: seconds until a part ends, and whether it succeeded."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self.policy, self.rng = policy, np.random.default_rng(seed)

    def play(self, part: Part, count: int) -> tuple[Any, Any]:
        match part:
            case Step(name, only_retries):
                lanes = [self.lane(name, only_retries, count) for _ in range(self.policy.retry_of(name).hedge)]
                seconds = np.array([np.where(worked, spent, np.inf) for spent, worked in lanes]).min(axis=0)
                over = np.array([spent for spent, _ in lanes]).max(axis=0)
                return np.where(np.isfinite(seconds), seconds, over), np.isfinite(seconds)
            case Measured(_, seconds):
                return self.rng.choice(seconds, count), np.ones(count, bool)
            case Series(parts):
                return self.row(parts, count)
            case Parallel(branches):
                played = [self.play(one, count) for one in branches]
                worked = np.all([one for _, one in played], axis=0)
                last = np.max([one for one, _ in played], axis=0)
                first = np.min([np.where(well, np.inf, spent) for spent, well in played], axis=0)
                return np.where(worked, last, first), worked
            case Repeat(body, times):
                numbers = self.rng.choice(times, count)
                whole, worked = np.zeros(count), np.ones(count, bool)
                for number in range(max(times)):
                    spent, well = self.play(body, count)
                    going = worked & (numbers > number)
                    whole += np.where(going, spent, 0.0)
                    worked &= ~going | well
                return whole, worked
            case Choice(options, shares):
                pick = self.rng.choice(len(options), count, p=shares)
                played = [self.play(one, count) for one in options]
                return tuple(np.choose(pick, [one[at] for one in played]) for at in (0, 1))  # type: ignore[return-value]
            case Rounds(body):
                whole, worked = np.zeros(count), np.zeros(count, bool)
                for _ in range(self.policy.dispatch_retries + 1):
                    spent, well = self.play(body, count)
                    limit = self.policy.child_run_timeout or np.inf
                    spent, well = np.minimum(spent, limit), well & (spent < limit)
                    whole += np.where(worked, 0.0, spent)
                    worked |= well
                return whole, worked

    def row(self, parts: tuple[Part, ...], count: int) -> tuple[Any, Any]:
        whole, worked = np.zeros(count), np.ones(count, bool)
        for one in parts:
            spent, well = self.play(one, count)
            whole += np.where(worked, spent, 0.0)
            worked &= well
        return whole, worked

    def lane(self, name: str, only_retries: bool, count: int) -> tuple[Any, Any]:
        rule, calls = self.policy.retry_of(name), CALLS[name]
        spent, going, worked = np.zeros(count), np.ones(count, bool), np.zeros(count, bool)
        number = 0
        while going.any() and number != (rule.max_tries or -1):
            number += 1
            draw, latency = self.rng.random(count), self.rng.choice(calls.latency, count)
            hung = (draw < calls.hang) | ((draw >= calls.hang + calls.error) & (latency >= rule.try_timeout))
            well = (draw >= calls.hang + calls.error) & ~hung
            pause = min(rule.max_backoff, rule.first_backoff * rule.multiplier ** (number - 1)) * self.rng.random(count)
            pause *= number != rule.max_tries
            lost = np.where(hung, rule.try_timeout, 0.0) + pause
            spent += np.where(going, np.where(well, 0.0 if only_retries else latency, lost), 0.0)
            worked |= going & well
            going &= ~well
        return spent, worked


FEW = {"a": replace(ALIKE.retry, max_tries=3), "c": replace(ALIKE.retry, max_tries=2, try_timeout=0.2)}


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("a, b, c", ALIKE),
        ("a x 10", ALIKE),
        ("(a, b) x 0/2/7, 500ms/1s", ALIKE),
        ("a | b, c | 400ms", ALIKE),
        ("(a | a | a | a | a), b", tuned(ALIKE, hedge=2)),
        ("(70%: a; 30%: b, c) x 3", ALIKE),
        ("(a, c) x 2, b", replace(ALIKE, steps=FEW)),
        ("(a | c), b", replace(ALIKE, steps=FEW)),
        ("b, rounds(a, c), b", replace(ALIKE, steps=FEW)),
        ("b, rounds(a | c), b", replace(ALIKE, steps=FEW, child_run_timeout=0.3)),
        ("rounds(a x 2, (60%: c; 40%: b))", replace(ALIKE, steps=FEW, dispatch_retries=1)),
        ("retries(c) x 4, retries(a)", ALIKE),
        ("a x 3, c", replace(ALIKE, steps={"c": replace(ALIKE.retry, hedge=3)})),
    ],
)
def test_a_chain_takes_what_it_takes_when_played(text: str, policy: Policy) -> None:
    """Whatever the parts: the share that completes, the curve and the bounds, against 20,000 runs."""
    chain = parse(text)
    found = predict(policy, CALLS, steps=chain, overhead=NOTHING)
    world = World(policy, seed=5)
    spent, worked = world.play(chain, PLAYED)
    seconds = np.where(worked, spent, np.inf)
    assert 1 - found.never == pytest.approx(float(worked.mean()), abs=4 * (0.25 / PLAYED) ** 0.5)
    for at in np.quantile(spent[worked], (0.1, 0.5, 0.9, 0.99)):
        share = float(np.mean(seconds > at))
        slack = 4 * (share * (1 - share) / PLAYED) ** 0.5
        assert found.p_miss(at + 0.006) - slack <= share <= found.p_miss(at - 0.006) + slack
        low, high = found.bounds(at)
        assert low - 1e-9 <= found.p_miss(at) <= high + 1e-9
        assert low - slack <= float(np.mean(seconds > at + 1e-9)) <= high + slack


def test_calls_are_counted_over_all_repetitions() -> None:
    """Ten times a step whose calls work half of the time: twenty calls, two for each time that it has to succeed."""
    found = predict(ALIKE, {"a": Calls(0.5), "b": Calls()}, steps=parse("a x 10, b"))
    assert found.tries == pytest.approx({"a": 20.0, "b": 1.0})
    assert found.calls_per_step == pytest.approx(21 / 11)


def test_a_loop_a_timer_and_a_fixed_call_take_what_they_take() -> None:
    """Ten activities of 0.1 s and ten pauses take 1.27 s, and so on."""
    calls = {"poll": Calls(latency=(0.1,)), "local": Calls(latency=(0.4,))}
    policy = tuned(ALIKE, try_timeout=1.0)
    for text, seconds in (("(poll, 27ms) x 10", 1.27), ("poll, 3s", 3.1), ("local x 3", 1.2)):
        found = predict(policy, calls, steps=parse(text), overhead=NOTHING)
        assert found.percentile(0.5) == pytest.approx(seconds, rel=0.01)


def test_an_orders_chain_is_what_its_steps_in_a_row_are() -> None:
    """The chain as a value, the names of the steps, and nothing at all: the same prediction."""
    names = ["receive", "validate", "charge", "prepare", "dispatch", "ship"]
    policy = preset("classic")
    results = [predict(policy, steps=steps).p_miss(15) for steps in (None, names, ORDER)]
    assert results[0] == results[1] == results[2]
    assert predict(policy, steps=parse(", ".join(names[:3]))).never == 0.0


def test_hundreds_of_different_numbers_of_rounds_are_computed_in_groups() -> None:
    """A loop of 0 to 499 rounds, equally likely: the mean is 249.5 rounds, and the bounds hold it."""
    chain = Repeat(Measured("a round", (0.01,)), tuple(range(500)))
    found = predict(ALIKE, {}, steps=chain, overhead=NOTHING)
    assert float(found.times @ found.pmf) == pytest.approx(2.495, rel=0.01)
    low, high = found.bounds(2.495)
    assert low - 0.01 <= 0.5 <= high + 0.01


def test_single_activities_of_a_stranger_get_rules_of_their_own() -> None:
    """A policy may name any step whose calls are known, no other. The search finds such rules."""
    quick = replace(ALIKE.retry, try_timeout=0.4, hedge=2)
    policy = replace(ALIKE, steps={"c": quick})
    chain = parse("(a | b) x 3, c x 2")
    assert predict(policy, CALLS, steps=chain).p_miss(3) < predict(ALIKE, CALLS, steps=chain).p_miss(3)
    assert sweep([policy], CALLS, deadline=3, steps=chain)["p_miss"].iloc[0] == pytest.approx(
        predict(policy, CALLS, steps=chain).p_miss(3), rel=0.03
    )
    assert marginal(policy, CALLS, deadline=3, steps=chain)["p_miss_double"].notna().any()
    with pytest.raises(ConfigError, match="steps names 'd'"):
        predict(replace(ALIKE, steps={"d": quick}), CALLS, steps=chain)
    rules: dict[str, list[Retry]] = {name: [ALIKE.retry, quick] for name in CALLS}
    mix = cheapest_mix(ALIKE, CALLS, rules, NOTHING, 3.0, 1e-3, steps=chain)
    assert mix is not None
    assert predict(mix, CALLS, steps=chain, overhead=NOTHING).p_miss(3) <= 1.2e-3
    assert set(mix.steps) <= set(CALLS)


@pytest.mark.parametrize(
    ("chain", "sentence"),
    [
        (Step("d"), "'d'"),
        (Repeat(Step("a"), ()), "A loop"),
        (Repeat(Step("a"), (-1,)), "A loop"),
        (Measured("a wait", ()), "durations of 'a wait'"),
        (Measured("a wait", (float("nan"),)), "durations of 'a wait'"),
        (Choice((Step("a"),), (0.5,)), "shares of a choice"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(chain: Part, sentence: str) -> None:
    """An unknown step, a loop of minus one rounds, a wait without durations: one sentence each."""
    with pytest.raises(BadInput, match=sentence):
        predict(ALIKE, CALLS, steps=Series((chain,)))
