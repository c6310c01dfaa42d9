"""Policies compared on the real servers, and sliders for the mathematics that predicts their times."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets  # type: ignore[import-untyped]
import pandas as pd
from IPython.display import display
from scipy import stats

from trellis.desk import Desk
from trellis.driving import run_order
from trellis.errors import BadInput
from trellis.faults import FaultPlan, Mix
from trellis.insight.policy_words import one_in
from trellis.insight.retries import Prediction, predict
from trellis.lab.session import Session
from trellis.model import State
from trellis.outages import Capacity, Outage
from trellis.policies import PRESETS, Placement, Policy, preset, tuned


async def compare_policies(
    session: Session,
    policies: Sequence[str | Policy] = tuple(PRESETS),
    *,
    orders: int = 20,
    cut: float = 60.0,
    spread: float = 9.0,
) -> pd.DataFrame:
    """Run `orders` orders of each policy and measure how long each takes, for at most `cut` seconds.

    The starts are spread over `spread` seconds, so that the orders do not wait for the processor. Each order is
    approved as it starts. An order that has not ended after `cut` seconds is cancelled and its row says `censored`:
    its duration is longer than `cut`. A progress bar counts the orders that have ended.
    Columns: order_id, policy, seconds [s, `cut` where censored], outcome [completed, failed, censored].
    """
    chosen = [preset(policy) if isinstance(policy, str) else policy for policy in policies]
    bar = widgets.IntProgress(max=orders * len(chosen), description="ended", layout={"width": "60%"})
    count = widgets.Label(f"0 of {bar.max}")
    display(widgets.HBox([bar, count]))

    def tick() -> None:
        bar.value += 1
        count.value = f"{bar.value} of {bar.max}"

    work = _compare(session.desk, chosen, orders, cut, spread, tick)
    return await session.awaiting(work)


async def _compare(
    desk: Desk, policies: Sequence[Policy], orders: int, cut: float, spread: float, tick: Callable[[], None]
) -> pd.DataFrame:
    async def one(policy: Policy, place: int) -> dict[str, Any]:
        await asyncio.sleep(spread * place / (orders * len(policies)))
        ended = await run_order(desk, policy, prefix="compare", cut=cut)
        tick()
        outcome = "censored" if ended.state is None else "completed" if ended.state is State.COMPLETED else "failed"
        return {"order_id": ended.order_id, "policy": policy.name, "seconds": ended.seconds, "outcome": outcome}

    runs = [
        one(policy, number * len(policies) + place) for number in range(orders) for place, policy in enumerate(policies)
    ]
    return pd.DataFrame(await asyncio.gather(*runs))


async def run_through_outage(
    session: Session,
    policy: str | Policy = "patient",
    *,
    orders: int = 60,
    seconds: float = 24.0,
    outage: float = 6.0,
    error: float = 0.02,
    step: str | None = None,
    capacity: Capacity | None = None,
) -> list[str]:
    """Start `orders` orders of one policy over `seconds`. For `outage` seconds in the middle the calls of `step` fail.

    `step`: None for every step. Before and after the outage a share `error` of the calls raises. `capacity`: what the
    provider of `step` serves; None: every call at once. Each order is approved as it starts. Returns the orders' ids
    when all have ended. Raises BadInput for an outage that does not fit in, ConfigError for a step that is not known.
    """
    if not 0 < outage < seconds:
        raise BadInput("The outage must be longer than 0 s and shorter than the time in which the orders start.")
    if capacity is not None and step is None:
        raise BadInput("Say of which step the capacity is.")
    chosen = preset(policy) if isinstance(policy, str) else policy
    calm = FaultPlan(mix=Mix(error=error))
    plan = calm.with_outages(Outage((seconds - outage) / 2, outage, step=step))
    session.faults(plan if step is None or capacity is None else plan.with_capacity(step, capacity))

    async def one(number: int) -> str:
        await asyncio.sleep(seconds * number / orders)
        return (await run_order(session.desk, chosen, prefix="outage")).order_id

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one(number) for number in range(orders)))

    try:
        return await session.awaiting(all_of_them())
    finally:
        session.faults(calm)


def missed_deadlines(runs: pd.DataFrame, predicted: Mapping[str, Prediction], deadline: float) -> pd.DataFrame:
    """The share of orders that missed `deadline` [s], measured in `runs` and predicted, for each policy.

    `runs`: a frame that `compare_policies` returned. An order that did not complete has missed the deadline.
    Index: the policy's name. Columns: "missed, measured", "95 % interval" (Clopper and Pearson), "missed, predicted"
    [text], inside [bool: the interval contains the prediction].
    """
    missed = (runs["outcome"] != "completed") | (runs["seconds"] > deadline)
    rows = {}
    for name, each in missed.groupby(runs["policy"], sort=False):
        interval = stats.binomtest(int(each.sum()), len(each)).proportion_ci(0.95)
        p_miss = predicted[str(name)].p_miss(deadline)
        rows[name] = {
            "missed, measured": f"{each.mean():.0%}",
            "95 % interval": f"{interval.low:.0%} to {interval.high:.0%}",
            "missed, predicted": f"{p_miss:.1%}",
            "inside": bool(interval.low <= p_miss <= interval.high),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def model_sliders(deadline: float = 15.0, policy: str | Policy = "swift") -> widgets.VBox:
    """Sliders for timeout, largest backoff, lanes and the share of hangs. Below them stands the prediction."""
    base = preset(policy) if isinstance(policy, str) else policy
    wide = {"style": {"description_width": "9em"}, "layout": {"width": "32em"}}
    timeout = widgets.FloatLogSlider(
        base.retry.try_timeout, min=-1.5, max=0.7, step=0.05, description="try timeout [s]", **wide
    )
    backoff = widgets.FloatLogSlider(
        base.retry.max_backoff, min=-2, max=0.3, step=0.05, description="largest backoff [s]", **wide
    )
    # The server runs one execution of a step at a time: it has no lanes.
    lanes = widgets.IntSlider(
        base.retry.hedge,
        min=1,
        max=4,
        description="hedge lanes",
        disabled=base.retry.placement is Placement.SERVER,
        **wide,
    )
    hang = widgets.FloatSlider(1 / 3, min=0, max=0.6, step=0.01, description="calls that hang", **wide)
    prediction = widgets.HTML()

    def predict_again(_: object = None) -> None:
        # The sliders also change the rules that the policy has for single steps.
        moved = tuned(
            base,
            name="sliders",
            try_timeout=timeout.value,
            max_backoff=backoff.value,
            first_backoff=min(base.retry.first_backoff, backoff.value),
            hedge=lanes.value,
        )
        plan = FaultPlan.canonical()
        plan = replace(plan, mix=replace(plan.mix, hang=hang.value))
        found = predict(moved, plan, dt=0.005)
        prediction.value = (
            f"<b>{one_in(found.p_miss(deadline))}</b> misses {deadline:g} s. Half complete within "
            f"<b>{found.percentile(0.5):.2f} s</b>, 99 % within <b>{found.percentile(0.99):.2f} s</b>, "
            f"at <b>{found.calls_per_step:.1f}</b> calls a step."
        )

    for slider in (timeout, backoff, lanes, hang):
        slider.observe(predict_again, names="value")
    predict_again()
    return widgets.VBox([timeout, backoff, lanes, hang, prediction])
