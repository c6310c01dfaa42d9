"""Rules about the limits of one attempt: start-to-close, schedule-to-close and heartbeat timeouts.

They share one cause, `limit`: the timeouts of an activity type have one explanation. A timeout that is set below one
second still fires after about a second, because the server's timers are floored there (`server_timers`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trellis.insight.calls import Calls
from trellis.insight.doctor.evidence import Group, Options
from trellis.insight.doctor.finding import Finding, Predicted
from trellis.insight.doctor.numbers import as_timedelta, limits, rounded_up, slowest, tail
from trellis.insight.doctor.predicting import expected
from trellis.insight.doctor.rules.rule import ActivityRule, per_cent, several
from trellis.insight.server_timers import MAX_TIME_SHIFT

LONG_CALL = 2.0
"""From this median [s] on, calls are long: a heartbeat finds a dead worker sooner than any timeout of the attempt."""


class HeartbeatTooShort(ActivityRule):
    """The heartbeat timeout ends attempts that still work, because they send heartbeats too seldom, or none.

    Needs four heartbeat timeouts. Either no attempt that worked lasted longer than the timeout, or more than one
    attempt in ten was ended so (lower limit), and these attempts began at four different times at least: a worker's
    death ends all its attempts at once, and that is what the timeout is for.
    """

    name = "heartbeat timeout shorter than the gaps between heartbeats"
    cause = "limit"

    def of(self, group: Group) -> Finding | None:
        beat = group.options.heartbeat_timeout
        killed = group.timed_out("heartbeat")
        if beat is None or killed < 4:
            return None
        worked = len(group.good)
        outlived = int((group.good > beat + MAX_TIME_SHIFT).sum())
        low, high = limits(killed, killed + worked)
        at = group.activities.loc[group.activities["cut"], "scheduled_at"].dropna()
        times = at.dt.floor("2s").nunique()
        if times < 4 or not (outlived == 0 or low > 0.1):
            return None
        silent = group.attempts.loc[group.timeouts == "heartbeat", "heartbeats"].dropna()
        sent = "they sent none" if len(silent) and silent.max() == 0 else "they sent none, or too seldom"
        longest = max(float(group.good.max()) if worked else 0.0, 3 * beat)
        value = rounded_up(2 * longest)
        return self.finding(
            group, "heartbeat_timeout",
            f"{as_timedelta(value)}, and call activity.heartbeat() at least every {as_timedelta(beat / 3)}",
            Predicted("attempts that the heartbeat timeout ends, share", killed / (killed + worked), 0.0),
            says=(
                f"the heartbeat timeout of {beat:g} s ended {several(killed, 'attempt')} of {killed + worked:,} "
                f"({per_cent(low)} to {per_cent(high)}) on workers that lived: {sent}."
            ),
            timeouts=killed, attempts=killed + worked, share=killed / (killed + worked), share_low=low,
            share_high=high, heartbeat_timeout=beat, seconds=killed * beat, hurt=_failed(group),
        )  # fmt: skip


class KillsGoodCalls(ActivityRule):
    """The timeout of an attempt lies in the tail of the good calls: it ends calls that would have worked.

    Needs three timeouts. With 15 good calls or more, their durations say how many are missing above the timeout
    (`tail`): at least 1 % (lower limit). Three of them, or one in twenty, must have needed more than 70 % of the
    timeout: an estimate that no call near the timeout supports is a guess about a shape. Where no attempt ever ended
    before the timeout, and eight did not, the timeout is below every call, or the activity never answers; then the
    value to set is a trial.
    """

    name = "timeout kills good calls"
    cause = "limit"
    local = True

    def of(self, group: Group) -> Finding | None:
        own = group.options
        limit = own.start_to_close_timeout or own.schedule_to_close_timeout
        killed = group.timed_out("start", "close")
        if limit is None or killed < 3 or (own.heartbeat_timeout or limit) < limit:
            return None
        option = "start_to_close_timeout"
        if own.schedule_to_close_timeout is not None and own.schedule_to_close_timeout <= limit:
            option = "schedule_to_close_timeout"
        good = group.good
        others = int((group.attempts["outcome"] == "failed").sum())
        if not len(good) and not others and killed >= 8:
            return self._none_ends(group, option, limit, killed)
        cut_off = max(limit, MAX_TIME_SHIFT) if not group.local else limit
        if len(good) and group.by_workers:
            # The server's clock starts before the worker's and stops after it.
            cut_off = min(cut_off, max(1.05 * float(good.max()), 0.8 * cut_off))
        near = int((good > 0.7 * cut_off).sum())
        if len(good) < 15 or near < max(3, 0.05 * min(len(good), killed)):
            return None
        found = tail(good, cut_off, killed)
        if found.low < 0.01:
            return None
        value = rounded_up(min(max(1.3 * found.within(0.999), 1.5 * limit), 20 * limit))
        error = min(0.9, others / max(1, others + len(good) + killed))
        calls = Calls(error=error, latency=found.seconds)
        now = expected(calls, own)
        then = expected(calls, _with_limit(own, value))
        lost = killed * (cut_off + own.pause(1))
        return self.finding(
            group, option, as_timedelta(value),
            Predicted("seconds in which 99 % of the activities succeed", now and now[1], then and then[1]),
            says=(
                f"{limit:g} s ends {per_cent(found.share)} of the good calls ({per_cent(found.low)} to "
                f"{per_cent(found.high)}): {several(killed, 'attempt')} of {killed + len(good) + others:,} timed out, "
                f"and {near} of {len(good)} calls that worked needed more than 70 % of it."
            ),
            timeouts=killed, attempts=killed + len(good) + others, killed_share=found.share, killed_low=found.low,
            killed_high=found.high, good_p50=float(np.median(good)), good_max=float(good.max()), timeout=limit,
            mean_now=now and now[0], mean_then=then and then[0], seconds=lost, hurt=_failed(group),
        )  # fmt: skip

    def _none_ends(self, group: Group, option: str, limit: float, killed: int) -> Finding:
        low, _ = limits(killed, killed)
        value = rounded_up(4 * limit)
        return self.finding(
            group, option, f"{as_timedelta(value)}, as a trial: nobody has seen how long a call takes",
            Predicted("attempts that the timeout ends, share", 1.0, None),
            says=(
                f"none of {several(killed, 'attempt')} ended within {limit:g} s: the timeout ends every call "
                f"(at least {per_cent(low)} of them)."
            ),
            timeouts=killed, attempts=killed, killed_share=1.0, killed_low=low, killed_high=1.0, timeout=limit,
            hurt=int((group.activities["outcome"] != "succeeded").sum()), seconds=killed * limit,
        )  # fmt: skip


class NoRoomToRetry(ActivityRule):
    """The activity's whole time is about that of one attempt, so an attempt that hangs is never tried again.

    Needs three activities that failed by a timeout at their first or second attempt, and a schedule-to-close timeout
    of less than twice the start-to-close timeout, although the policy allows further attempts.
    """

    name = "no room to retry"
    cause = "limit"

    def of(self, group: Group) -> Finding | None:
        own = group.options
        whole, limit = own.schedule_to_close_timeout, own.start_to_close_timeout
        if whole is None or limit is None or whole >= 2 * limit or own.maximum_attempts == 1:
            return None
        ends = group.activities[(group.activities["outcome"] == "timed out") & (group.activities["attempts"] <= 2)]
        if len(ends) < 3 or len(group.good) < 10:
            return None
        bound = slowest(group.good)
        value = rounded_up(max(2 * bound, MAX_TIME_SHIFT))
        if 3 * value <= whole:
            option, text = "start_to_close_timeout", as_timedelta(value)
            tries = whole / (value + own.pause(1))
        else:
            option, text = "schedule_to_close_timeout", as_timedelta(rounded_up(4 * (limit + own.pause(1))))
            tries = 4.0
        low, high = limits(len(ends), len(group.activities))
        share = len(ends) / len(group.activities)
        return self.finding(
            group, option, text,
            Predicted("activities that time out for good, share", share, share ** max(1.0, min(tries, 20.0))),
            says=(
                f"{several(len(ends), 'activity')} of {len(group.activities):,} ({per_cent(low)} to {per_cent(high)}) "
                f"timed out for good at the first or second attempt: schedule-to-close is {whole:g} s, one attempt "
                f"may take {limit:g} s, and the slowest good call took {group.good.max():.3g} s."
            ),
            failed=len(ends), activities=len(group.activities), share=share, share_low=low, share_high=high,
            schedule_to_close_timeout=whole, start_to_close_timeout=limit, good_max=float(group.good.max()),
            hurt=ends["run_id"].nunique(), seconds=len(ends) * whole,
        )  # fmt: skip


class FarAboveGoodCalls(ActivityRule):
    """The timeout of an attempt is far above the slowest good call, so an attempt that hangs, or whose worker died, is
    noticed late.

    Needs 30 good calls, or 15 and two attempts that hung. Where attempts hung: the timeout is four times the value
    to set, and two seconds more at least. Where none did, it costs nothing yet: then only a timeout of two minutes or
    more without a heartbeat counts, a hundred times above what good calls need.
    """

    name = "timeout far above the slowest good call"
    cause = "limit"

    def of(self, group: Group) -> Finding | None:
        own = group.options
        limit, good = own.start_to_close_timeout, group.good
        if limit is None or len(good) < 15:
            return None
        bound = slowest(good)
        value = rounded_up(max(1.5 * bound, MAX_TIME_SHIFT))
        hung, waited = self._hung(group, bound)
        costs = hung >= 2 and limit >= 4 * value and limit - value >= 2.0
        could = (
            len(good) >= 30 and limit >= 120.0 and limit >= 100 * bound and own.heartbeat_timeout is None
            and float(np.median(good)) < LONG_CALL
        )  # fmt: skip
        if not costs and not could:
            return None
        share = hung / (hung + len(good))
        low, high = limits(hung, hung + len(good))
        if hung:
            calls = Calls(hang=share, latency=tuple(float(one) for one in np.quantile(good, np.linspace(0, 1, 100))))
            now, then = expected(calls, own), expected(calls, _with_limit(own, value))
            predicted = Predicted("seconds of an activity, on average", now and now[0], then and then[0])
            what = (
                f"{several(hung, 'attempt')} of {hung + len(good):,} ({per_cent(low)} to {per_cent(high)}) hung, for "
                f"{waited:.3g} s together"
            )
        else:
            predicted = Predicted("seconds until a lost attempt is noticed", limit, value)
            what = "an attempt whose worker dies waits that long"
        return self.finding(
            group, "start_to_close_timeout", as_timedelta(value), predicted,
            says=(
                f"an attempt may take {limit:g} s, and the slowest of {len(good):,} good calls took "
                f"{good.max():.3g} s: {what}."
            ),
            timeout=limit, good_max=float(good.max()), good_calls=len(good), hung=hung, share=share, share_low=low,
            share_high=high, waited=waited, seconds=hung * max(0.0, min(limit, waited / max(hung, 1)) - value),
        )  # fmt: skip

    def _hung(self, group: Group, bound: float) -> tuple[int, float]:
        """(how many attempts hung, the seconds that they took): those that timed out, and those that run still."""
        limit = group.options.start_to_close_timeout or 0.0
        ended = group.timed_out("start", "close")
        rows = group.attempts[(group.attempts["outcome"] == "open") & group.attempts["started_at"].notna()]
        running = (group.now - rows["started_at"]).dt.total_seconds()
        running = running[(running > 10 * bound) & (running > 2.0) & (running < 2 * limit + 60)]
        return ended + len(running), ended * limit + float(running.sum())


class LongWithoutHeartbeat(ActivityRule):
    """A long activity without heartbeats: if its worker dies, only the attempt's own timeout notices it.

    Needs eight good calls of which half take two seconds or more, no heartbeat timeout, and a start-to-close timeout of
    a minute or more; of half a minute, where half of the calls take ten seconds.
    """

    name = "long activity without heartbeat"
    cause = "limit"

    def of(self, group: Group) -> Finding | None:
        own, good = group.options, group.good
        limit = own.start_to_close_timeout
        if limit is None or own.heartbeat_timeout is not None or len(good) < 8:
            return None
        usual = float(np.median(good))
        if usual < LONG_CALL or limit < (30.0 if usual >= 10.0 else 60.0):
            return None
        value = rounded_up(max(5.0, min(30.0, limit / 20)))
        deaths = group.timed_out("start", "close") + int((group.attempts["outcome"] == "lost").sum())
        ended = "" if not deaths else f"; {several(deaths, 'attempt')} waited for it"
        return self.finding(
            group, "heartbeat_timeout", f"{as_timedelta(value)}, and call activity.heartbeat() every second or so",
            Predicted("seconds until the death of a worker is noticed", limit, value),
            says=(
                f"half of {len(good):,} good calls took {usual:.3g} s or more, without a heartbeat: if the worker "
                f"dies, the activity stands still until its timeout of {limit:g} s{ended}."
            ),
            good_p50=usual, good_max=float(good.max()), good_calls=len(good), timeout=limit, deaths=deaths,
            seconds=deaths * (limit - value),
        )  # fmt: skip


def _with_limit(options: Options, seconds: float) -> Options:
    return replace(options, start_to_close_timeout=seconds)


def _failed(group: Group) -> int:
    """How many workflows have an activity that a timeout ended for good."""
    rows = group.activities
    return int(rows.loc[rows["outcome"] == "timed out", "run_id"].nunique())
