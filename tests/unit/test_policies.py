"""Policies: the presets, retry rules for single steps, and what contradicts itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from temporalio.converter import DataConverter

from trellis import config
from trellis.desk import default_policy
from trellis.errors import ConfigError
from trellis.insight.policy_words import as_options, rules
from trellis.messages import OrderInput, ShippingInput
from trellis.model import OUTSIDE_STEPS, Order, Step
from trellis.policies import (
    PRESETS,
    AtWindowEnd,
    Jitter,
    Placement,
    Policy,
    Retry,
    preset,
    specification,
    tuned,
)


def test_the_presets_are_the_table_of_the_contract() -> None:
    """Six presets, with their windows, timeouts and placements."""
    table = {
        name: (
            p.review_window,
            p.at_window_end,
            p.retry.try_timeout,
            p.retry.first_backoff,
            p.retry.max_backoff,
            p.budget,
        )
        for name, p in PRESETS.items()
    }
    approve, end = AtWindowEnd.APPROVE, AtWindowEnd.TIME_OUT
    assert table == {
        "swift": (30, end, 0.25, 0.005, 0.05, 15),
        "classic": (5, approve, 3, 0.2, 1, 15),
        "compact": (3, approve, 1, 0.1, 1, 15),
        "reviewed": (10, end, 2, 0.5, 2, 15),
        "warehouse": (3, end, 2, 0.2, 1, 15),
        "patient": (300, end, 2, 0.005, 0.2, 120),
    }
    assert PRESETS["swift"].retry.placement is Placement.ACTIVITY
    assert PRESETS["swift"].retry.jitter is Jitter.FULL
    assert PRESETS["patient"].retry.max_tries == 1000
    assert PRESETS["swift"].whole_run == 105


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("swift", {"hedge": 2, "placement": "server"}),
        ("classic", {"jitter": "full"}),
        ("swift", {"first_backoff": 1.0}),
        ("swift", {"try_timeout": 20.0}),
        ("swift", {"budget": 0}),
        ("swift", {"run_timeout": 10.0}),
        ("classic", {"review_window": 20.0}),
        ("swift", {"multiplier": 0.5}),
        ("swift", {"try_timeout": float("nan")}),
        ("classic", {"retry_share": 0.1}),
        ("classic", {"slow_after": 5, "slow_backoff": 2.0}),
        ("swift", {"retry_share": -0.1}),
        ("swift", {"retry_share": 11}),
        ("swift", {"slow_after": -1, "slow_backoff": 2.0}),
        ("swift", {"slow_after": 5}),
        ("swift", {"slow_backoff": 2.0}),
        ("swift", {"slow_after": 5, "slow_backoff": 0.01}),
        ("swift", {"nonsense": 1}),
        ("swift", {"placement": "moon"}),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(base: str, changes: dict[str, Any]) -> None:
    """A policy that contradicts itself is refused with a sentence."""
    with pytest.raises(ConfigError, match=r"\."):
        tuned(preset(base), **changes)


def test_backoff_doubles_to_its_ceiling_and_jitter_spreads_it() -> None:
    """5, 10, 20, 40, 50, 50 ms; full jitter takes a uniform share."""
    retry = preset("swift").retry
    steps = [round(retry.backoff(n, 0.999999) * 1000) for n in range(1, 7)]
    assert steps == [5, 10, 20, 40, 50, 50]
    assert retry.backoff(3, 0.0) == 0.0
    assert preset("classic").retry.backoff(1, 0.0) == 0.2


def test_a_backoff_that_grows_slowly_reaches_its_ceiling() -> None:
    """By 3 % a failure, 5 ms become 50 ms after the 79th failure; a huge multiplier does not overflow."""
    slow = replace(preset("swift").retry, multiplier=1.03, jitter=Jitter.NONE)
    assert slow.backoff(65, 0.0) < slow.backoff(75, 0.0) < slow.backoff(79, 0.0) == 0.05
    assert replace(slow, multiplier=1e6).backoff(1000, 0.0) == 0.05
    assert replace(slow, multiplier=1e6, first_backoff=0.0).backoff(1000, 0.0) == 0.0


@pytest.mark.parametrize("name", ["swift", "compact", "reviewed", "warehouse"])
def test_a_preset_that_promises_further_rounds_limits_its_dispatch(name: str) -> None:
    """Only a dispatch with a limit of tries ends a round, so that the next one can begin."""
    policy = preset(name)
    assert policy.dispatch_retries == 2
    assert policy.retry_of("dispatch") == replace(policy.retry, max_tries=9 if name == "swift" else 4)
    assert all(policy.retry_of(step) == policy.retry for step in OUTSIDE_STEPS if step != "dispatch")


def test_a_policy_has_another_rule_for_a_single_step() -> None:
    """`steps` changes one step's rule from the one in force, and None takes the change back."""
    base = preset("classic")
    one = tuned(base, steps={"dispatch": {"max_tries": 9}})
    assert one.retry_of("dispatch") == replace(base.retry, max_tries=9)
    assert one.retry_of("charge") == base.retry
    two = tuned(one, steps={"dispatch": {"try_timeout": 1.5}})
    assert two.retry_of("dispatch") == replace(base.retry, max_tries=9, try_timeout=1.5)
    assert tuned(two, steps={"dispatch": None}).steps == {}
    quick = {"placement": "activity", "hedge": 2, "jitter": "full"}
    assert tuned(base, steps={"charge": quick}).retry_of("charge").placement is Placement.ACTIVITY


def test_a_change_for_all_steps_reaches_those_with_a_rule_of_their_own() -> None:
    """A try timeout for all steps changes the rules of single steps too. `steps` is applied after it."""
    policy = tuned(preset("swift"), max_tries=2, try_timeout=1)
    assert {policy.retry_of(step).try_timeout for step in OUTSIDE_STEPS} == {1}
    assert policy.retry_of("dispatch").max_tries == 2
    assert tuned(preset("swift"), max_tries=2, steps={"dispatch": {"max_tries": 5}}).retry_of("dispatch").max_tries == 5
    assert tuned(preset("swift"), placement="server", jitter="none").retry_of("dispatch").max_tries == 9


def test_refund_and_ship_are_tried_without_limit() -> None:
    """No limit of tries may strand money or a parcel, and a policy that asks for one is refused."""
    policy = tuned(preset("swift"), max_tries=2, steps={"refund": {"try_timeout": 1}})
    assert {step for step in OUTSIDE_STEPS if policy.retry_of(step).max_tries != 2} == {"ship", "refund"}
    assert policy.retry_of("ship").max_tries == policy.retry_of("refund").max_tries == 0
    assert policy.retry_of("refund").try_timeout == 1
    with pytest.raises(ConfigError, match="refund is tried until it succeeds"):
        tuned(preset("swift"), steps={"refund": {"max_tries": 3}})
    assert tuned(policy, max_tries=3).retry_of("refund").max_tries == 0


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ({"nostep": {}}, "no step 'nostep'"),
        ({"complete": {}}, "no step 'complete'"),
        ({"charge": 5}, "retry rule of charge"),
        ({"charge": {"tries": 5}}, "no field 'tries'"),
        ({"charge": {"max_tries": "5"}}, "steps.charge.max_tries must be a whole number"),
        ({"charge": {"max_tries": True}}, "steps.charge.max_tries must be a whole number"),
        ({"charge": {"jitter": "some"}}, "some"),
        ({"charge": {"placement": "server"}}, "steps.charge has jitter"),
        ({"charge": {"try_timeout": 20}}, "whole budget"),
        ([], "must be an object"),
        ("dispatch", "must be an object"),
    ],
)
def test_a_bad_rule_for_a_step_is_refused(steps: object, sentence: str) -> None:
    """An unknown step, an unknown field, a rule that contradicts itself: each is refused with a sentence."""
    with pytest.raises(ConfigError, match=sentence):
        tuned(preset("swift"), steps=steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"budget": "5"}, {"name": 5}, {"hedge": 1.5}, {"budget_counts_review": 1}])
def test_a_value_of_another_type_is_refused(changes: dict[str, Any]) -> None:
    """A number written as text, or a half lane, is refused in words."""
    with pytest.raises(ConfigError, match="must be"):
        tuned(preset("swift"), **changes)


async def test_an_input_of_yesterday_is_still_read() -> None:
    """Orders that were started before there were rules for single steps have one rule for all steps."""
    converter = DataConverter.default
    order = OrderInput(Order("a", "p"), preset("swift"))
    child = ShippingInput(order.order, 1, preset("swift").retry, "order-a", preset("swift").steps)
    for value in (order, child):
        [payload] = await converter.encode([value])
        assert await converter.decode([payload], [type(value)]) == [value]
    old = b'{"order":{"order_id":"a","payment_id":"p"},"policy":{"name":"swift","retry":{"max_tries":3}}}'
    payload.data = old
    [read] = await converter.decode([payload], [OrderInput])
    assert read.policy == Policy("swift", retry=Retry(max_tries=3))
    payload.data = b'{"order":{"order_id":"a","payment_id":"p"},"round":1,"retry":{},"parent_workflow_id":"order-a"}'
    [round_] = await converter.decode([payload], [ShippingInput])
    assert round_.retry_of(Step.DISPATCH) == Retry()


def test_each_field_says_what_it_is_in_words_and_in_temporals() -> None:
    """A form, and a table for people who know Temporal, are made from the fields themselves."""
    retry = {one["name"]: one for one in specification(Retry)}
    assert retry["try_timeout"]["temporal"] == "start_to_close_timeout"
    assert retry["first_backoff"]["temporal"] == "initial_interval"
    assert retry["max_backoff"]["temporal"] == "maximum_interval"
    assert retry["multiplier"]["temporal"] == "backoff_coefficient"
    assert retry["max_tries"] == {
        "name": "max_tries", "kind": "whole", "default": 0, "choices": [], "unit": "",
        "says": "how many attempts, 0 for no limit", "temporal": "maximum_attempts",
    }  # fmt: skip
    assert retry["placement"]["choices"] == ["server", "activity"]
    policy = {one["name"]: one for one in specification(Policy)}
    assert policy["budget_counts_review"]["kind"] == "yes_no"
    assert "retry" not in policy


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_budget_of_fifteen_seconds_fits_every_preset(name: str) -> None:
    """WORKFLOW_RUN_TIMEOUT_SECONDS=15 is at most 15 s of work; Temporal's own limit comes a minute after it."""
    settings = config.load({"WORKFLOW_RUN_TIMEOUT_SECONDS": "15", "TRELLIS_POLICY": name}, None)
    policy = default_policy(settings)
    assert policy.budget == 15
    assert policy.whole_run >= policy.review_window + 15 + 60


@pytest.mark.parametrize(
    ("name", "seconds", "least"),
    [("classic", 5, "5 s"), ("classic", 3, "5 s"), ("reviewed", 2, "2 s"), ("swift", 0.2, "0.25 s")],
)
def test_a_budget_that_does_not_fit_is_one_sentence(name: str, seconds: float, least: str) -> None:
    """A budget that the review or a single try would use up is refused, and the sentence says how much is needed."""
    settings = config.load({"WORKFLOW_RUN_TIMEOUT_SECONDS": str(seconds), "TRELLIS_POLICY": name}, None)
    with pytest.raises(ConfigError, match=f"does not fit policy {name}.*Choose more than {least}, or"):
        default_policy(settings)


def test_what_limits_retries_is_said_in_words_and_in_options() -> None:
    """A rule with a budget says so, in words and in the decorator to paste."""
    policy = tuned(preset("swift"), retry_share=0.1, slow_after=5, slow_backoff=2)
    assert "a retry budget of 0.1 for each first try, 2 s after 5 failures in a row" in rules(policy)
    text = as_options(policy, ["charge"])
    assert "retry_share=0.1, slow_after=5, slow_backoff=2))" in text
    assert "retry_share" not in as_options(preset("swift"), ["charge"])
    assert policy.retry_of("charge").governed
    assert not any(one.retry_of(step).governed for one in PRESETS.values() for step in OUTSIDE_STEPS)
