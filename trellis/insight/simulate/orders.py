"""Simulated orders as frames: what `insight.attempts` and `insight.orders` would return of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Faults, Overhead
from trellis.insight.chain import ORDER, Part
from trellis.insight.frames import OUTCOMES
from trellis.insight.simulate.tries import FIELDS
from trellis.insight.simulate.world import Setting, World
from trellis.outages import HOW
from trellis.policies import Policy

_EPOCH = pd.Timestamp("2000-01-01", tz="UTC")
_OVERHEAD = Overhead()


@dataclass(frozen=True)
class Simulated:
    """`attempts`: a row for each try, with the columns of `insight.attempts`. `runs`: a row for each order.

    Columns of `runs`: order_id [string], state [category: COMPLETED or FAILED], policy [category], policy_json [string
    of JSON], created_at, ended_at [UTC], seconds, waited [float; nobody waits for a person here, so 0].
    """

    attempts: pd.DataFrame
    runs: pd.DataFrame


def simulate(
    policy: Policy,
    faults: Faults = None,
    *,
    orders: int,
    at_once: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    shards: int = 1,
    steps: Sequence[str] | Part = ORDER,
    overhead: Overhead = _OVERHEAD,
    under: FaultPlan | None = None,
    workers: int = 1,
    slots: int | None = None,
    budget: bool = False,
) -> Simulated:
    """Play `orders` orders, each approved at once, call by call.

    `at_once`: so many run at a time, and a new one begins when one ends. `rate`: instead of that, orders begin at
    random times, so many a second. Neither: one at a time. `shards`: the server's history shards; a development server
    has one. `steps` as for `predict`: names in a row, where those of the shipping workflow run in rounds, or a chain.
    `under`: a plan whose outages and capacity apply, where `faults` are calls; a plan given as `faults` brings its own.
    `workers`: worker processes, each with retry budgets of its own and `slots` activities of a queue at a time (None:
    no limit). `budget`: an order that used up the policy's budget ends FAILED.

    The same seed gives each order the same luck, whatever the policy. Not simulated: a review, the compensation of an
    order that failed, and the wait for a core (see `queued`, which turns it into overhead). Raises BadInput and
    ConfigError as `predict` does.
    """
    if (
        min(orders, shards, workers, at_once or 1, slots or 1) < 1
        or at_once == 0
        or slots == 0
        or (rate is not None and not 0 < rate < math.inf)
    ):
        raise BadInput("A simulation needs at least one order, one shard, one worker and one slot, and a rate above 0.")
    if at_once is not None and rate is not None:
        raise BadInput("Give at_once or rate, not both: orders begin when others end, or at random times.")
    policy.check()
    world = World(policy, faults, steps, seed, Setting(overhead, shards, workers, slots, budget), under)
    if rate is not None:
        world.play_at(rate, orders)
    else:
        world.play(orders, at_once or 1)
    return Simulated(_attempts(world), _runs(world, policy))


def _attempts(world: World) -> pd.DataFrame:
    tries = pd.DataFrame(world.tries.recorded, columns=list(FIELDS)).sort_values(["order_id", "began"], kind="stable")
    tries["attempt"] = tries.groupby(["order_id", "step"]).cumcount() + 1
    return pd.DataFrame({
        "order_id": tries["order_id"].astype(pd.StringDtype("pyarrow")), "step": tries["step"].astype("category"),
        **{name: tries[name].astype("Int32") for name in ("attempt", "round", "execution", "try", "lane")},
        "outcome": pd.Categorical(tries["outcome"].map(str), categories=OUTCOMES),
        "started_at": _times(tries["began"]), "ended_at": _times(tries["ended"]),
        "duration_ms": (tries["ended"] - tries["began"]) * 1000,
        "error": pd.Series(pd.NA, index=tries.index, dtype=pd.StringDtype("pyarrow")),
        "worker": pd.Categorical(["simulated"] * len(tries)), "skewed": False,
        "outage": pd.Categorical(tries["outage"], categories=list(HOW)), "queued": tries["queued"].astype(float),
    }).reset_index(drop=True)  # fmt: skip


def _runs(world: World, policy: Policy) -> pd.DataFrame:
    runs = pd.DataFrame([asdict(run) for run in world.runs]).sort_values("order_id")
    ended = runs["ended"].astype(float)
    return pd.DataFrame({
        "order_id": runs["order_id"].astype(pd.StringDtype("pyarrow")), "state": runs["state"].astype("category"),
        "policy": pd.Categorical([policy.name] * len(runs)), "policy_json": json.dumps(asdict(policy)),
        "created_at": _times(runs["began"]), "ended_at": _times(ended),
        "seconds": ended - runs["began"], "waited": 0.0,
    }).reset_index(drop=True)  # fmt: skip


def _times(seconds: pd.Series[Any]) -> pd.Series[Any]:
    return (_EPOCH + pd.to_timedelta(seconds, unit="s")).astype("datetime64[us, UTC]")
