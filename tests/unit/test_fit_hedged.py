"""Shares learned from hedged calls, where the lane that wins cuts the others off."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trellis.insight.fit import fit

ERROR = HANG = 0.3


def hedged(seed: int, orders: int, lanes: int) -> pd.DataFrame:
    """One step of each order: three of ten calls raise, three hang until 0.25 s, four work after 10 to 50 ms."""
    rng = np.random.default_rng([seed, orders, lanes])
    rows: list[tuple[str, float]] = []
    for _ in range(orders):
        tries: list[tuple[float, str, float]] = []
        won = np.inf
        for _ in range(lanes):
            at, kind = 0.0, ""
            while kind != "succeeded" and at < won:
                draw = rng.random()
                kind = "failed" if draw < ERROR else "timed out" if draw < ERROR + HANG else "succeeded"
                took = {"failed": 0.0, "timed out": 0.25, "succeeded": rng.uniform(0.01, 0.05)}[kind]
                tries.append((at, kind, took))
                at += took + (0.0 if kind == "succeeded" else rng.uniform(0, 0.02))
            won = min(won, at) if kind == "succeeded" else won
        rows += [
            (kind, took * 1000) if at + took <= won else ("abandoned", (won - at) * 1000)
            for at, kind, took in tries
            if at <= won
        ]
    return pd.DataFrame(rows, columns=["outcome", "duration_ms"])


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize(("orders", "trials"), [(20, 60), (60, 60), (500, 15)])
def test_intervals_hold_however_many_lanes_and_orders(lanes: int, orders: int, trials: int) -> None:
    """All three true shares lie in their 95 % intervals in at least 93 % of the data sets."""
    true = {"ok": 1 - ERROR - HANG, "error": ERROR, "hang": HANG}
    inside = 0
    for seed in range(trials):
        found = fit(hedged(seed, orders, lanes))
        inside += all(low <= true[name] <= high for name, (low, high) in found.intervals.items())
        assert found.longest <= 0.25
    assert inside >= np.floor(0.93 * trials)
