"""Attempts as draws that can be tested: when each began, whether it failed, and whether it was slow.

One draw is one try. Where a step was hedged, one draw is the first try of all its lanes together, because the later
tries of a lane are cut off when another lane succeeds, and which tries are cut off depends on the outcomes. A draw of a
hedged step failed if every lane's first try failed.

Left out: tries that were lost, are still open, or were abandoned outside a hedge. None of them shows how a call ends.
A history holds failures without times. They are placed at equal distances between the time at which their activity was
scheduled and the start of its last attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

_FAILED = ("failed", "timed out", "unknown")
_KEPT = (*_FAILED, "succeeded")


@dataclass(frozen=True)
class Draws:
    """Arrays with one value for each draw, sorted by `start` [s since the first start; NaN where no time is known].

    `step`, `order`, `worker`: numbers of the step, the order and the worker (-1 where not known). `number`: how many
    tries of its step the order made before, plus one. `failed`: bool. `seconds`: duration of a good call [s], NaN for
    the others. `beside`: calls of all steps that were in flight at the start. `hedged`: whether any step was.
    `orders_known`: whether the attempts say of which order they are.
    """

    steps: tuple[str, ...]
    began: pd.Timestamp | None
    start: Any
    step: Any
    order: Any
    worker: Any
    number: Any
    failed: Any
    seconds: Any
    beside: Any
    hedged: bool
    orders_known: bool = True

    def __len__(self) -> int:
        return len(self.start)

    @property
    def timed(self) -> float:
        """The share of draws with a known start."""
        return float(np.isfinite(self.start).mean()) if len(self) else 0.0

    def slow(self, share: float) -> Any:
        """Whether a good call is slower than `share` of the good calls of its step. False where it is not good."""
        found = np.zeros(len(self), dtype=bool)
        for code in range(len(self.steps)):
            mine = (self.step == code) & np.isfinite(self.seconds)
            if mine.any():
                # Latencies that differ only in their last digits are equal. Those digits depend on the time of day.
                found[mine] = self.seconds[mine] > np.quantile(self.seconds[mine], share) * 1.001
        return found


def draws(attempts: pd.DataFrame) -> Draws:
    """The draws of a frame that `insight.attempts` or `history_attempts` returned. Columns that are missing count as
    not known."""
    frame = _columns(attempts)
    hedged = frame["lane"].to_numpy(dtype=int).max(initial=0) > 0
    flight = _Flight(frame)
    if hedged:
        frame = _races(frame)
    frame = frame[frame["outcome"].isin(_KEPT).to_numpy()]
    frame = frame.sort_values("start", kind="stable", na_position="last", ignore_index=True)
    failed = frame["outcome"].isin(_FAILED).to_numpy(dtype=bool)
    step, names = pd.factorize(frame["step"], sort=False)
    order, _ = pd.factorize(frame["order_id"])
    worker, _ = pd.factorize(frame["worker"])
    start = frame["start"].to_numpy(dtype=float)
    return Draws(
        steps=tuple(str(name) for name in names),
        began=flight.zero,
        start=start,
        step=step,
        order=order,
        worker=worker,
        number=frame.groupby(["order_id", "step", "round"], observed=True, dropna=False).cumcount().to_numpy() + 1,
        failed=failed,
        seconds=np.where(failed, np.nan, frame["seconds"].to_numpy(dtype=float)),
        beside=flight.at(start),
        hedged=bool(hedged),
        orders_known="order_id" in attempts,
    )


def _columns(attempts: pd.DataFrame) -> pd.DataFrame:
    """The columns that draws are made from, in plain types. `start` and `end` are in seconds since 1970."""
    if "step" in attempts:
        attempts = attempts[attempts["step"].notna().to_numpy()]
    n = len(attempts)

    def column(name: str, otherwise: Any) -> Any:
        return attempts[name].to_numpy() if name in attempts else np.full(n, otherwise)

    def whole(name: str, otherwise: int) -> Any:
        numbers = pd.to_numeric(pd.Series(column(name, otherwise)), errors="coerce")
        return numbers.fillna(otherwise).to_numpy(dtype="int64")

    frame = pd.DataFrame(
        {
            "order_id": pd.Series(column("order_id", "")).astype(str),
            "step": pd.Series(column("step", "")).astype(str),
            "round": whole("round", 0),
            "execution": whole("execution", 1),
            "lane": whole("lane", 0),
            "outcome": pd.Series(column("outcome", "lost")).astype(object).astype(str),
            "worker": pd.Series(column("worker", None)).astype(object),
            "seconds": pd.to_numeric(pd.Series(column("duration_ms", np.nan)), errors="coerce").astype(float) / 1000,
            "start": seconds_since_1970(attempts, "started_at"),
            "end": seconds_since_1970(attempts, "ended_at"),
        }
    )
    # A clock that runs wrong gives negative durations. Such a call took some time that nobody knows.
    frame.loc[frame["seconds"] < 0, ["seconds", "end"]] = np.nan
    if "scheduled_at" in attempts and frame["start"].isna().any():
        _fill(frame, seconds_since_1970(attempts, "scheduled_at"))
    frame["end"] = frame["end"].fillna(frame["start"] + frame["seconds"].fillna(0.0))
    return frame


def seconds_since_1970(frame: pd.DataFrame, name: str) -> Any:
    """A column of times as seconds since 1970, NaN where it is missing or is no time."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    times = pd.to_datetime(frame[name], utc=True, errors="coerce").astype("datetime64[us, UTC]")
    return np.where(times.isna(), np.nan, times.astype("int64").to_numpy() / 1e6)


def _fill(frame: pd.DataFrame, scheduled: Any) -> None:
    """Starts for attempts of a history that have none: between `scheduled` and the start of the activity's last."""
    same = frame.groupby(["order_id", "step", "round"], sort=False)
    place, size = same.cumcount().to_numpy(), same["start"].transform("size").to_numpy()
    last = same["start"].transform("max").to_numpy()
    first = np.where(np.isnan(scheduled), last, scheduled)
    between = first + (np.where(np.isnan(last), first, last) - first) * place / np.maximum(size - 1, 1)
    frame["start"] = np.where(frame["start"].isna(), between, frame["start"])


def _races(frame: pd.DataFrame) -> pd.DataFrame:
    """Each hedged execution as one row, and the other rows as they are."""
    key = ["order_id", "step", "round", "execution"]
    several = frame.groupby(key, sort=False)["lane"].transform("max").to_numpy() > 0
    mine = frame[several].sort_values("start", kind="stable")
    lost = mine["outcome"].isin(_FAILED)
    firsts = mine.assign(lost=lost).drop_duplicates([*key, "lane"])
    races = firsts.groupby(key, sort=False).agg(
        start=("start", "min"), end=("end", "max"), lost=("lost", "all"), lane=("lane", "size"),
        worker=("worker", "first"),
    ).reset_index()  # fmt: skip
    won = mine[mine["outcome"] == "succeeded"].drop_duplicates(key).set_index(key)
    at = pd.MultiIndex.from_frame(races[key])
    races["seconds"] = won["seconds"].reindex(at).to_numpy()
    races["outcome"] = np.where(races["lost"], "failed", "succeeded")
    return pd.concat([frame[~several], races.drop(columns="lost")], ignore_index=True)


class _Flight:
    """How many calls are in flight at a time."""

    def __init__(self, frame: pd.DataFrame) -> None:
        start, end = frame["start"].to_numpy(dtype=float), frame["end"].to_numpy(dtype=float)
        known = np.isfinite(start)
        zero = float(start[known].min()) if known.any() else 0.0
        self.zero = pd.Timestamp(zero, unit="s", tz="UTC") if known.any() else None
        frame["start"] = start - zero
        # A call that takes no time is never in flight. Counted, it would have ended before its own start, and quick
        # calls would seem to begin beside fewer calls than hung ones.
        lasting = known & (end > start)
        self._starts = np.sort(start[lasting] - zero)
        # The start itself is in floating point: an end that equals a start comes first.
        self._ends = np.sort(end[lasting] - zero)

    def at(self, times: Any) -> Any:
        """Calls that began before each of `times` [s since the first start] and had not ended. NaN for NaN."""
        begun = np.searchsorted(self._starts, times, side="left")
        ended = np.searchsorted(self._ends, times, side="right")
        return np.where(np.isfinite(times), np.maximum(begun - ended, 0), np.nan)
