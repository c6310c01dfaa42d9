"""Rules about retries: intervals that the server cannot keep, errors that never go away, and outages."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

from trellis.insight.doctor.evidence import Group, Options
from trellis.insight.doctor.finding import Finding, Predicted
from trellis.insight.doctor.numbers import Burst, as_timedelta, burst, chance, limits, rounded_up
from trellis.insight.doctor.rules.rule import ActivityRule, per_cent, several
from trellis.insight.server_timers import ALONE, Tries, waits

_BY_CHANCE = 0.001
"""A burst that chance alone gives with this probability or more is none. Dozens of types are judged at once."""


class IntervalTooShort(ActivityRule):
    """Temporal retries later than asked: its timers are floored near one second.

    Needs an initial interval of half a second or less, eight activities that failed and were tried again and none of
    whose attempts is known to have timed out, and a pause that was on average 0.3 s and twice the interval longer
    than asked. The time that first attempts waited for a worker is subtracted. On a server whose timers are faster,
    the pauses are as asked, and nothing is found.
    """

    name = "retry interval below the server's timers"
    cause = "timers"

    def of(self, group: Group) -> Finding | None:
        own = group.options
        asked = own.initial_interval
        if asked is None or asked > 0.5:
            return None
        found = self._pauses(group)
        if len(found) < 8:
            return None
        took, wanted = float(found["pause"].median()), float(found["asked"].mean())
        if took - wanted < max(0.3, 2 * wanted):
            return None
        retries = int(found["retries"].sum())
        model = self._expected(group)
        return self.finding(
            group, "RetryPolicy.initial_interval",
            f"timedelta(seconds=1), which is what the server does; to be quicker, retry inside the activity "
            f"(trellis.retrying, first_backoff={asked:g})",
            Predicted("seconds between two attempts", took, wanted),
            says=(
                f"{asked:g} s is asked for, and {several(len(found), 'activity')} waited {took:.3g} s between attempts "
                f"(median); the server's timers give about {model:.3g} s."
            ),
            asked=wanted, observed=took, activities=len(found), retries=retries, server_timers=model,
            seconds=retries * (took - wanted),
        )  # fmt: skip

    def _pauses(self, group: Group) -> pd.DataFrame:
        """Per activity that was tried again: mean pause and mean pause asked for [s], and the number of retries."""
        acts = group.activities
        rows = group.attempts
        first = rows[(rows["attempt"] == 1) & rows["started_at"].notna()]
        queued = float((first["started_at"] - first["scheduled_at"]).dt.total_seconds().median())
        waited = max(0.0, queued) if np.isfinite(queued) else 0.0
        failing = rows.loc[rows["outcome"] == "failed", "seconds"].dropna()
        each = 0.0 if failing.empty else float(failing.median())
        timed_out = rows.loc[rows["outcome"].isin(["timed out", "lost"]), "activity"].unique()
        again = acts[(acts["attempts"] > 1) & ~acts.index.isin(timed_out) & acts["started_at"].notna()]
        retries = again["attempts"] - 1
        spent = (again["started_at"] - again["scheduled_at"]).dt.total_seconds() - waited - retries * (each + waited)
        wanted = [sum(group.options.pause(n) for n in range(1, int(number) + 1)) / number for number in retries]
        made = pd.DataFrame({"pause": spent / retries, "asked": wanted, "retries": retries})
        known: pd.DataFrame = made[np.isfinite(made["pause"])]
        return known

    def _expected(self, group: Group) -> float:
        """The pause after a first failure on an idle shard, by the model of the server's timer queue [s]."""
        own, good = group.options, group.good
        usual = float(np.median(good)) if len(good) else 0.05
        found = waits(
            Tries(
                own.start_to_close_timeout or 10.0, own.initial_interval or 1.0, own.backoff_coefficient or 2.0,
                own.maximum_interval or 100.0, raises=0.3, cut=0.0, after=0.01, works=usual, way=0.005, between=0.01,
                shard=ALONE,
            )
        )  # fmt: skip
        return float(np.mean(found.after("raised", 1)))


class Bursts(ActivityRule):
    """Failures come in a burst, in several workflows at once: something that they share was out.

    It looks at the first attempts of activities, in the order in which they were scheduled. The stretch with most
    failures (`burst`) must be one that chance gives less than once in a thousand types, hold five failures of four
    workflows, fail at least in six calls of ten, and three times as often as the calls outside, of which there are ten.
    """

    name = "failures in bursts"
    cause = "errors"
    local = True

    def of(self, group: Group) -> Finding | None:
        acts = group.activities.dropna(subset=["scheduled_at"]).sort_values("scheduled_at", kind="stable")
        failed = acts["failed_first"].to_numpy(dtype=bool)
        found = burst(failed)
        if found is None or not self._counts(acts, found):
            return None
        inside = acts.iloc[found.first : found.last + 1]
        hit = inside[inside["failed_first"]]
        hurt = hit[hit["outcome"].isin(["failed", "timed out"])]
        began, ended = inside["scheduled_at"].iloc[0], hit["scheduled_at"].max()
        # An activity that failed at once may have been tried until the end of the outage.
        again = hit.loc[hit["outcome"] == "succeeded", "started_at"].min()
        until = max(ended, again) if pd.notna(again) else ended
        length = max(1.0, float((until - began).total_seconds()))
        option, value, predicted = self._advice(group.options, length, len(hurt), len(inside))
        low, high = limits(found.failed, found.calls)
        lost = float((hit["ended_at"] - hit["scheduled_at"]).dt.total_seconds().clip(lower=0).sum())
        return self.finding(
            group, option, value, predicted,
            says=(
                f"{found.failed} of {found.calls} calls failed between {began:%H:%M:%S} and {ended:%H:%M:%S} "
                f"({per_cent(low)} to {per_cent(high)}), in {several(hit['run_id'].nunique(), 'workflow')}, and "
                f"{per_cent(found.outside)} of the others: an outage of about {length:.3g} s. "
                + (
                    f"{several(len(hurt), 'activity')} failed for good in it."
                    if len(hurt)
                    else "Retries outlasted it."
                )
            ),
            burst_failed=found.failed, burst_calls=found.calls, share=found.failed / found.calls, share_low=low,
            share_high=high, outside=found.outside, workflows=hit["run_id"].nunique(), length=length,
            by_chance=chance(found.surprise, len(acts)), failed_for_good=len(hurt),
            hurt=hurt["run_id"].nunique(), seconds=lost,
        )  # fmt: skip

    def _counts(self, acts: pd.DataFrame, found: Burst) -> bool:
        inside = acts.iloc[found.first : found.last + 1]
        workflows = inside.loc[inside["failed_first"], "run_id"].nunique()
        share = found.failed / found.calls
        return (
            chance(found.surprise, len(acts)) < _BY_CHANCE and found.failed >= 5 and workflows >= 4
            and share >= 0.6 and share >= 3 * found.outside and len(acts) - found.calls >= 10
        )  # fmt: skip

    def _advice(self, own: Options, length: float, hurt: int, calls: int) -> tuple[str, str, Predicted]:
        """What outlasts an outage of this length three times over."""
        if hurt or own.keeps_trying() < 2 * length:
            share = hurt / calls
            failing = Predicted("activities of such an outage that fail for good, share", share, 0.0)
            if own.maximum_attempts and (own.schedule_to_close_timeout or math.inf) > 3 * length:
                number, total = 1, 0.0
                while total < 3 * length and number < 100_000:
                    total += own.pause(number)
                    number += 1
                return "RetryPolicy.maximum_attempts", str(number), failing
            return "schedule_to_close_timeout", as_timedelta(rounded_up(3 * length)), failing
        longest = rounded_up(max(1.0, length / 5))
        pauses = 0
        while pauses < 64 and sum(own.pause(n) for n in range(1, pauses + 1)) < length:
            pauses += 1
        now = own.pause(max(1, pauses))
        waits_on = Predicted("seconds that an activity waits on after the outage, at most", now, min(now, longest))
        if now <= longest:
            return "RetryPolicy.maximum_interval", "as it is: the retries outlast such an outage", waits_on
        return "RetryPolicy.maximum_interval", as_timedelta(longest), waits_on


class _NeverGoesAway(ActivityRule):
    """What two rules share: errors that no retry of this type ever got past.

    Failures are alike if type and message are, apart from digits. Such an error counts as permanent where no activity
    that met it worked later, an activity had five attempts or more, and at least eight attempts were wasted: a call
    that works every third time would have worked with a probability of 96 %.
    """

    cause = "errors"

    def stuck(self, group: Group) -> tuple[str | None, pd.DataFrame]:
        """(the error's type, the activities that never got past it)."""
        acts = group.activities[group.activities["attempts"] > 1]
        kinds = acts["failure_type"].astype(object).where(acts["failure_type"].notna(), "?").astype(str)
        text = acts["error"].astype(object).where(acts["error"].notna(), "").astype(str)
        alike = kinds + ": " + text.map(lambda one: re.sub(r"\d+", "#", one)[:80])
        passed = set(alike[acts["outcome"] == "succeeded"])
        left = acts[(acts["outcome"] != "succeeded") & ~acts["cut"]]
        left = left[~alike[left.index].isin(passed)]
        wasted = left["attempts"] - 1
        if left.empty or left["attempts"].max() < 5 or wasted.sum() < 8:
            return None, left.iloc[:0]
        kind = kinds[left.index].mode().iloc[0]
        return None if kind == "?" else str(kind), left


class NoLimit(_NeverGoesAway):
    """Retries without a number of attempts and without a deadline, of errors that never go away.

    This is Temporal's default, and harmless while every error goes away. So it needs errors that did not.
    """

    name = "retries without limit"

    def of(self, group: Group) -> Finding | None:
        own = group.options
        if own.limited:
            return None
        kind, left = self.stuck(group)
        # What ended by itself had an end.
        left = left[~left["outcome"].isin(["failed", "timed out"]) | group.from_book]
        if left.empty:
            return None
        worked = group.activities[group.activities["outcome"] == "succeeded"]
        needed = int(worked["attempts"].max()) if len(worked) else 1
        number = max(5, 2 * needed)
        lasts = sum(own.pause(n) for n in range(1, number))
        wasted = int((left["attempts"] - 1).sum())
        spent = (group.now - left["scheduled_at"]).dt.total_seconds().clip(lower=0)
        named = f", or RetryPolicy.non_retryable_error_types=[{kind!r}]" if kind else ""
        return self.finding(
            group, "RetryPolicy.maximum_attempts", f"{number}{named}",
            Predicted("seconds until such an activity fails, and its workflow can act", math.inf, max(lasts, 0.001)),
            says=(
                f"{several(len(left), 'activity')} of {len(group.activities):,} retried an error that never went away"
                f"{f' ({kind})' if kind else ''}, up to {int(left['attempts'].max())} times, without a limit; those "
                f"that worked needed {several(needed, 'attempt')} at most."
            ),
            activities=len(left), of=len(group.activities), attempts=int(left["attempts"].max()), wasted=wasted,
            needed=needed, error=kind, hurt=left["run_id"].nunique(), seconds=float(spent.sum()),
        )  # fmt: skip


class SameErrorToTheEnd(_NeverGoesAway):
    """Retries up to their limit of an error that no retry gets past."""

    name = "an error that no retry gets past is retried"

    def of(self, group: Group) -> Finding | None:
        if not group.options.limited:
            return None
        kind, left = self.stuck(group)
        left = left[left["outcome"].isin(["failed", "timed out"])]
        if kind is None or len(left) < 2:
            return None
        spent = (left["ended_at"] - left["scheduled_at"]).dt.total_seconds().clip(lower=0)
        each, attempts = float(spent.mean()), float(left["attempts"].mean())
        return self.finding(
            group, "RetryPolicy.non_retryable_error_types", f"[{kind!r}]",
            Predicted("seconds until the activity fails", each, each / attempts if each < 1 else min(each, 1.0)),
            says=(
                f"{several(len(left), 'activity')} of {len(group.activities):,} failed with {kind} after "
                f"{attempts:.3g} attempts on average, and no activity that met this error ever worked later."
            ),
            activities=len(left), of=len(group.activities), attempts=attempts, error=kind,
            wasted=int((left["attempts"] - 1).sum()), seconds=float(spent.sum()),
        )  # fmt: skip
