"""The chain of an order, from the ledger: it is known, and what is left over is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.calls import Overhead
from trellis.insight.chain import Measured, Series, in_a_row
from trellis.insight.structure.course import Structure, values
from trellis.insight.structure.wording import REST, sentence
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.model import Step as OrderStep

_FIRST, _BEFORE_REVIEW, _AFTER_REVIEW = str(OrderStep.RECEIVE), str(OrderStep.VALIDATE), str(OrderStep.CHARGE)
_FIRST_OF_ROUND = str(OrderStep.PREPARE)

_SHORTEST_WAIT = 0.5
"""A gap before the charge that is shorter than this [s] is scheduling, not a wait for a person."""


def of_orders(attempts: pd.DataFrame, orders: pd.DataFrame | None) -> Structure:
    """The structure of orders. `orders`: as `insight.orders` returned them; None: an order lasts from its first
    attempt's start to its last attempt's end."""
    names = list(dict.fromkeys(attempts["step"].astype(str)))
    steps = [str(one) for one in FORWARD_OUTSIDE_STEPS if one in names] or names
    spans = _spans(attempts)
    runs = _runs(attempts, orders)
    done = runs["done"].to_numpy(dtype=bool)
    words = sentence(in_a_row(steps))
    if not done.any():
        text = "None of these orders has completed, so it is not known how long an order takes apart from its steps."
        return Structure(in_a_row(steps), False, text, 0.0, _public(runs), ())
    forward = spans[spans["step"].isin(steps)]
    each = forward.groupby("order_id", sort=False)
    of = pd.Index(runs["order_id"].astype(object))
    took = each["seconds"].sum().reindex(of).fillna(0.0).to_numpy(dtype="float64")
    # The model adds what each further round of shipping costs.
    rounds = forward.loc[forward["step"] == _FIRST_OF_ROUND].groupby("order_id")["round"].nunique().reindex(of)
    again = (rounds.fillna(1).to_numpy(dtype="float64") - 1).clip(min=0) * Overhead().round
    runs["waited"] = np.where(done, _waited(forward, of, orders), 0.0)
    runs["seconds"] = (runs["seconds"] - runs["waited"]).clip(lower=0)
    seconds = runs["seconds"].to_numpy(dtype="float64")
    # An order of which a step's attempts are missing would count them as remainder.
    whole = done & (each["step"].nunique().reindex(of).to_numpy(dtype="float64", na_value=0.0) == len(steps))
    rest = np.maximum(seconds - took - again, 0.0)[whole]
    if whole.sum() * 2 < done.sum():
        text = f"An order runs {words}. The ledger lacks attempts of most orders, so the time between steps is assumed."
        return Structure(in_a_row(steps), True, text, 1.0, _public(runs), ())
    remainder = values(rest)
    chain = Series((*in_a_row(steps).parts, Measured(REST, remainder)))
    explained = float(1 - rest.sum() / seconds[whole].sum()) if seconds[whole].sum() > 0 else 1.0
    text = (
        f"An order runs {words}. Its steps take {explained:.0%} of the time. Workflow tasks, scheduling and queues "
        f"take the rest: {np.median(rest):.2f} s in the median order."
    )
    return Structure(chain, True, text, explained, _public(runs), remainder)


def _public(runs: pd.DataFrame) -> pd.DataFrame:
    if "waited" not in runs:
        runs = runs.assign(waited=0.0)
    return runs.loc[runs["ended"].to_numpy(dtype=bool), ["order_id", "seconds", "waited"]].reset_index(drop=True)


def _spans(attempts: pd.DataFrame) -> pd.DataFrame:
    """One row per order, step and round: from the first try's start to the last try's end."""
    each = attempts.groupby(["order_id", "step", "round"], observed=True, sort=False)
    made = each.agg(started_at=("started_at", "min"), ended_at=("ended_at", "max")).reset_index()
    made["step"] = made["step"].astype(str)
    made["order_id"] = made["order_id"].astype(object)
    made["seconds"] = (made["ended_at"] - made["started_at"]).dt.total_seconds().clip(lower=0)
    return made


def _runs(attempts: pd.DataFrame, orders: pd.DataFrame | None) -> pd.DataFrame:
    if orders is not None:
        seconds = orders["seconds"].to_numpy(dtype="float64", na_value=np.nan)
        ended = np.isfinite(seconds) & (seconds >= 0)
        state = orders["state"].astype(object) if "state" in orders else pd.Series("COMPLETED", index=orders.index)
        return pd.DataFrame(
            {"order_id": orders["order_id"], "seconds": seconds, "ended": ended,
             "done": ended & (state == "COMPLETED").to_numpy()}
        ).reset_index(drop=True)  # fmt: skip
    last = str(FORWARD_OUTSIDE_STEPS[-1])
    each = attempts.groupby("order_id", observed=True, sort=False)
    made = each.agg(began=("started_at", "min"), end=("ended_at", "max")).reset_index()
    made["seconds"] = (made["end"] - made["began"]).dt.total_seconds()
    complete = (attempts["outcome"].astype(object) == "succeeded") & (attempts["step"].astype(str) == last)
    made["done"] = made["order_id"].isin(attempts.loc[complete, "order_id"]) if complete.any() else True
    made["ended"] = made["done"]
    return made


def _waited(forward: pd.DataFrame, of: Any, orders: pd.DataFrame | None) -> Any:
    """How long each order waited for its approval [s]: the gap before the charge, less the usual gap between steps. The
    ledger does not hold when a person answered. A gap that scheduling explains is no wait."""
    if orders is not None and "waited" in orders:
        waited: Any = np.nan_to_num(orders["waited"].to_numpy(dtype="float64", na_value=np.nan))
        return waited

    def gap(before: str, after: str) -> Any:
        end = forward[forward["step"] == before].drop_duplicates("order_id").set_index("order_id")["ended_at"]
        start = forward[forward["step"] == after].drop_duplicates("order_id").set_index("order_id")["started_at"]
        return (start.reindex(of) - end.reindex(of)).dt.total_seconds().to_numpy(dtype="float64")

    review, usual = gap(_BEFORE_REVIEW, _AFTER_REVIEW), gap(_FIRST, _BEFORE_REVIEW)
    usual = usual[np.isfinite(usual)]
    middle, most = np.quantile(usual, (0.5, 0.99)) if len(usual) else (0.0, 0.0)
    return np.where(np.nan_to_num(review) > max(_SHORTEST_WAIT, 2 * most), np.nan_to_num(review) - middle, 0.0)
