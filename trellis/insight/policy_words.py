"""A policy in words, and as Temporal's options to paste into a workflow."""

from __future__ import annotations

from collections.abc import Iterable

from trellis.insight.retries import RESOLUTION
from trellis.policies import Jitter, Placement, Policy, Retry


def rules(policy: Policy) -> str:
    """The retry rules of a policy: "timeout 0.25 s, backoff 5-50 ms; for dispatch timeout 2 s, backoff ..."."""
    apart = "".join(f"; for {step} {_rule(rule)}" for step, rule in policy.steps.items())
    return f"{_rule(policy.retry)}{apart}"


def _rule(retry: Retry) -> str:
    lanes = f", {retry.hedge} lanes" if retry.hedge > 1 else ""
    where = " by the server" if retry.placement is Placement.SERVER else ""
    backoff = f"{retry.first_backoff * 1000:g}-{retry.max_backoff * 1000:g} ms"
    return f"timeout {retry.try_timeout:.3g} s, backoff {backoff}{where}{lanes}{_limits(retry)}"


def _limits(retry: Retry) -> str:
    """What a rule does while a provider is out: ", a retry budget of 0.1 for each first try"."""
    share = "" if retry.retry_share is None else f", a retry budget of {retry.retry_share:g} for each first try"
    slow = f", {retry.slow_backoff:g} s after {retry.slow_after} failures in a row" if retry.slow_after else ""
    return f"{share}{slow}"


def one_in(share: float, noun: str = "order") -> str:
    """A small share in words: "1 in 1.6 million orders"."""
    if share <= RESOLUTION:
        return f"fewer than 1 in a trillion {noun}s"
    if share > 0.05:
        return f"{share:.0%} of {noun}s"
    number = 1 / share
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"1 in {number / size:.1f} {word} {noun}s"
    return f"1 in {number:,.0f} {noun}s"


def misses(share: float, noun: str = "order") -> str:
    """The share that misses, as the beginning of a sentence: "1 in 300 orders misses", "41% of orders miss"."""
    return f"{one_in(share, noun)} {'miss' if share > 0.05 else 'misses'}"


def as_options(policy: Policy, steps: Iterable[str]) -> str:
    """The arguments of `workflow.execute_activity` for each step, in Python. Steps with equal rules share a block."""
    by: dict[Retry, list[str]] = {}
    for step in steps:
        by.setdefault(policy.retry_of(step), []).append(step)
    return "\n".join(f"# {', '.join(names)}\n{_options(rule, policy.budget)}" for rule, names in by.items())


def _options(rule: Retry, budget: float) -> str:
    if rule.placement is Placement.SERVER:
        attempts = f"    maximum_attempts={rule.max_tries},\n" if rule.max_tries else ""
        return (
            f"start_to_close_timeout=timedelta(seconds={rule.try_timeout:g}),\n"
            f"schedule_to_close_timeout=timedelta(seconds={budget:g}),\n"
            f"retry_policy=RetryPolicy(\n"
            f"    initial_interval=timedelta(seconds={rule.first_backoff:g}),\n"
            f"    backoff_coefficient={rule.multiplier:g},\n"
            f"    maximum_interval=timedelta(seconds={rule.max_backoff:g}),\n"
            f"{attempts}"
            f"),\n"
        )
    # The loop retries. Temporal's own retry is for a worker that was lost, and its timers take about a second anyway.
    return (
        f"# A RetryPolicy cannot retry within a second, because the server's timers take about 1 s. So the activity\n"
        f"# retries. Below @activity.defn, with `from trellis.retrying import Jitter, Placement, Retry, retrying`:\n"
        f"{as_decorator(rule)}\n"
        f"# and where the workflow calls it:\n"
        f"start_to_close_timeout=timedelta(seconds={budget:g}),\n"
        f"schedule_to_close_timeout=timedelta(seconds={budget:g}),\n"
        f"heartbeat_timeout=timedelta(seconds=3),\n"
        f"retry_policy=RetryPolicy(\n"
        f"    initial_interval=timedelta(seconds=1),\n"
        f"    backoff_coefficient=1,\n"
        f"    maximum_interval=timedelta(seconds=1),\n"
        f"),\n"
    )


def as_decorator(rule: Retry) -> str:
    """The rule as the decorator that `trellis.retrying` has, in Python, on two lines."""
    jitter = ", jitter=Jitter.FULL" if rule.jitter is Jitter.FULL else ""
    tries = f", max_tries={rule.max_tries}" if rule.max_tries else ""
    lanes = f", hedge={rule.hedge}" if rule.hedge > 1 else ""
    share = "" if rule.retry_share is None else f", retry_share={rule.retry_share:g}"
    slow = f", slow_after={rule.slow_after}, slow_backoff={rule.slow_backoff:g}" if rule.slow_after else ""
    return (
        f"@retrying(Retry(try_timeout={rule.try_timeout:g}, first_backoff={rule.first_backoff:g}, "
        f"max_backoff={rule.max_backoff:g}, multiplier={rule.multiplier:g}{jitter},\n"
        f"                placement=Placement.ACTIVITY{tries}{lanes}{share}{slow}))"
    )
