"""How long the runs in a frame took, and which policy each was under."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.history.frames import POLICY
from trellis.policies import Placement, Policy, Retry, read_policy

_FIRST_INTERVAL, _COEFFICIENT, _TIMES_FIRST = 1.0, 2.0, 100.0
"""Temporal's defaults: the first interval [s], the coefficient, and the longest interval as a multiple of the first."""


def measured_runs(attempts: pd.DataFrame, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per run that ended. Columns: order_id [string], seconds [float], waited [float: 0, where nothing says
    how long the run waited for a person], policy [Policy or None: the one in force], state [of `runs`, else missing].

    `runs`: a frame of `insight.orders` or `history_workflows`. None: a run lasts from its first attempt's start to its
    last attempt's end, and a run with an open attempt has not ended.
    """
    if runs is None:
        found = _from_attempts(attempts)
    else:
        if missing := sorted({"order_id", "seconds"} - set(runs.columns)):
            raise BadInput(
                f"The frame of runs has no {', '.join(missing)}: give a frame of insight.orders or history_workflows."
            )
        ended = runs["ended_at"].notna() if "ended_at" in runs else runs["seconds"].notna()
        found = runs[ended].reset_index(drop=True)
    seconds = pd.to_numeric(found["seconds"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    made = pd.DataFrame(
        {
            "order_id": found["order_id"],
            "seconds": seconds,
            "waited": 0.0,
            "policy": _policies(found, attempts),
            "state": found["state"] if "state" in found else pd.Series([None] * len(found), dtype="object"),
        }
    )
    # A clock that was set back during a run gives a time that cannot be used.
    usable: pd.DataFrame = made[np.isfinite(seconds) & (seconds >= 0)]
    return usable.reset_index(drop=True)


def _from_attempts(attempts: pd.DataFrame) -> pd.DataFrame:
    if not {"order_id", "started_at", "ended_at"} <= set(attempts.columns) or attempts.empty:
        return pd.DataFrame({"order_id": pd.Series(dtype="string"), "seconds": pd.Series(dtype="float64")})
    began = attempts["started_at"]
    if "scheduled_at" in attempts:
        began = began.fillna(attempts["scheduled_at"])
    times = pd.DataFrame({"order_id": attempts["order_id"], "began": began, "ended": attempts["ended_at"]})
    whole = times.groupby("order_id", observed=True, sort=False).agg(began=("began", "min"), ended=("ended", "max"))
    still_open = attempts.loc[(attempts["outcome"].astype("string") == "open").fillna(False), "order_id"].unique()
    whole = whole[~whole.index.isin(still_open)].reset_index()
    return whole.assign(seconds=(whole["ended"] - whole["began"]).dt.total_seconds())


def _policies(runs: pd.DataFrame, attempts: pd.DataFrame) -> pd.Series[Any]:
    """The policy in force of each run: the order's own, or the options that Temporal had for the run's activities."""
    if "policy_json" in runs:
        codes, kinds = pd.factorize(runs["policy_json"], use_na_sentinel=False)
        read = np.array([_read(one) for one in kinds] or [None], dtype=object)
        return pd.Series(read[codes], index=runs.index, dtype="object")
    by_run = _of_histories(attempts) if "order_id" in attempts and set(POLICY) <= set(attempts.columns) else {}
    return pd.Series([by_run.get(one) for one in runs["order_id"]], index=runs.index, dtype="object")


def _read(text: Any) -> Policy | None:
    try:
        return read_policy(json.loads(text), "swift")
    except (BadInput, ValueError, TypeError):
        return None  # written by hand or by a version that is not known: such an order has no policy to compare with


def _of_histories(attempts: pd.DataFrame) -> dict[Any, Policy]:
    """Each run's policy, by the run's id. Of an activity that a run calls with several options, the first call's."""
    calls = _options(attempts).drop_duplicates(["order_id", "step"])
    calls = calls.astype(dict.fromkeys(POLICY, "float64"))
    timed = calls["start_to_close_timeout"].notna() | calls["schedule_to_close_timeout"].notna()
    calls = calls[timed.to_numpy()]
    if calls.empty:
        return {}
    code = calls.groupby([*POLICY, *_LOOP], dropna=False).ngroup().to_numpy()
    first = {int(one): int(row) for row, one in reversed(list(enumerate(code)))}
    rules = {one: _rule(calls.iloc[row]) for one, row in first.items()}
    steps, names = pd.factorize(calls["step"].astype(str))
    runs, ids = pd.factorize(calls["order_id"])
    table = np.full((len(ids), len(names)), -1)
    table[runs, steps] = code
    for column in range(len(names)):
        # A run that did not reach a step has the rule that this step has in most runs.
        values, counts = np.unique(code[steps == column], return_counts=True)
        table[table[:, column] < 0, column] = values[counts.argmax()]
    kinds, of = np.unique(table, axis=0, return_inverse=True)
    policies = [_policy({name: rules[int(one)] for name, one in zip(names, row, strict=True)}) for row in kinds]
    return {id_: policies[one] for id_, one in zip(ids, of.ravel(), strict=True)}


_LOOP = ["loop", "lanes"]


def _options(attempts: pd.DataFrame) -> pd.DataFrame:
    """The options of each attempt, and whether it is a try of a loop (1 or 0) with so many lanes. Tries come first: an
    attempt that a loop never began in has the options that stand behind the loop."""
    if "placement" not in attempts:
        return attempts[["order_id", "step", *POLICY]].assign(loop=0.0, lanes=1.0)
    loop = (attempts["placement"].astype(object) == Placement.ACTIVITY).astype("float64")
    last = attempts["lane"].astype("float64").groupby([attempts["order_id"], attempts["step"]], observed=True)
    made = attempts[["order_id", "step", *POLICY]].assign(loop=loop, lanes=last.transform("max") + 1.0)
    return made.sort_values("loop", ascending=False, kind="stable")


def _rule(options: pd.Series[Any]) -> Retry:
    def given(name: str, default: float) -> float:
        return float(options[name]) if pd.notna(options[name]) else default

    first = given("initial_interval", _FIRST_INTERVAL)
    return Retry(
        try_timeout=given("start_to_close_timeout", given("schedule_to_close_timeout", 0.0)),
        first_backoff=first,
        max_backoff=given("maximum_interval", first * _TIMES_FIRST),
        multiplier=given("backoff_coefficient", _COEFFICIENT),
        max_tries=int(given("maximum_attempts", 0)),
        placement=Placement.ACTIVITY if options["loop"] else Placement.SERVER,
        hedge=int(options["lanes"]) if options["loop"] else 1,
    )


def _policy(rules: dict[str, Retry]) -> Policy:
    general = Counter(rules.values()).most_common(1)[0][0]
    return Policy("in force", retry=general, steps={step: rule for step, rule in rules.items() if rule != general})
