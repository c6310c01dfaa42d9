"""Policies: every timeout, window, retry rule and deadline of an order, as one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from trellis.errors import ConfigError


class Placement(StrEnum):
    """Where a failed try is tried again.

    SERVER: each try is one activity execution and Temporal retries it; its timers are accurate to about 1 s.
    ACTIVITY: a quick loop inside one execution that heartbeats; Temporal's retry stands behind it.
    """

    SERVER = "server"
    ACTIVITY = "activity"


class Jitter(StrEnum):
    NONE = "none"
    FULL = "full"


class AtWindowEnd(StrEnum):
    APPROVE = "approve"
    TIME_OUT = "time_out"


class WhenParentCloses(StrEnum):
    REQUEST_CANCEL = "request_cancel"
    ABANDON = "abandon"
    TERMINATE = "terminate"


@dataclass(frozen=True)
class Retry:
    """How one step is tried. Times in seconds; `max_tries` 0 means without limit."""

    try_timeout: float = 0.25
    first_backoff: float = 0.005
    max_backoff: float = 0.05
    multiplier: float = 2.0
    jitter: Jitter = Jitter.NONE
    max_tries: int = 0
    placement: Placement = Placement.SERVER
    hedge: int = 1

    def backoff(self, failures: int, draw: float) -> float:
        """Seconds to wait after the `failures`-th failure in a row (1-based); `draw` is uniform in [0, 1).

        Full jitter is uniform between nothing and the exponential step (Brooker, "Exponential Backoff And
        Jitter", AWS Architecture Blog, 2015).
        """
        step = min(self.max_backoff, self.first_backoff * self.multiplier ** min(failures - 1, 64))
        return step * draw if self.jitter is Jitter.FULL else step


@dataclass(frozen=True)
class Policy:
    """All of an order's patience. Times in seconds; `run_timeout` None means window + budget + 60 s."""

    name: str = "custom"
    review_window: float = 30.0
    at_window_end: AtWindowEnd = AtWindowEnd.TIME_OUT
    budget: float = 15.0
    budget_counts_review: bool = False
    run_timeout: float | None = None
    child_run_timeout: float | None = None
    dispatch_retries: int = 2
    parent_close: WhenParentCloses = WhenParentCloses.REQUEST_CANCEL
    retry: Retry = field(default_factory=Retry)

    @property
    def whole_run(self) -> float:
        return self.run_timeout or self.review_window + self.budget + 60.0

    def check(self) -> Policy:
        """Return the policy itself, or raise ConfigError with a sentence if it contradicts itself."""
        retry = self.retry
        numbers = {
            "review_window": self.review_window,
            "budget": self.budget,
            "retry.try_timeout": retry.try_timeout,
            "retry.first_backoff": retry.first_backoff,
            "retry.max_backoff": retry.max_backoff,
            "retry.multiplier": retry.multiplier,
            "run_timeout": self.whole_run,
            "child_run_timeout": self.child_run_timeout or 1.0,
        }
        for name, value in numbers.items():
            if not math.isfinite(value) or value < 0 or value > 30 * 86_400:
                raise ConfigError(f"The policy's {name} must be between 0 and 30 days, in seconds.")
        problems = [
            (retry.try_timeout <= 0, "retry.try_timeout must be more than 0"),
            (self.budget <= 0, "budget must be more than 0"),
            (
                self.child_run_timeout is not None and self.child_run_timeout <= 0,
                "child_run_timeout must be more than 0",
            ),
            (retry.multiplier < 1, "retry.multiplier must be at least 1, or backoffs would shrink"),
            (retry.first_backoff > retry.max_backoff, "retry.first_backoff is longer than retry.max_backoff"),
            (retry.max_tries < 0, "retry.max_tries must be 0 (no limit) or more"),
            (not 1 <= retry.hedge <= 8, "retry.hedge must be from 1 to 8"),
            (not 0 <= self.dispatch_retries <= 100, "dispatch_retries must be from 0 to 100"),
            (
                retry.placement is Placement.SERVER and retry.hedge > 1,
                "hedging needs placement activity: the server runs one execution of a step at a time",
            ),
            (
                retry.placement is Placement.SERVER and retry.jitter is not Jitter.NONE,
                "jitter needs placement activity: the server's backoff has none to set",
            ),
            (retry.try_timeout >= self.budget, "a single try may last as long as the whole budget"),
            (
                self.budget_counts_review and self.review_window >= self.budget,
                "the budget counts the review, but the review window alone uses it up",
            ),
            (
                self.run_timeout is not None and self.run_timeout <= self.least_run,
                f"run_timeout must be longer than {self.least_run:g} s, or Temporal would end the order "
                f"before it can compensate",
            ),
        ]
        for wrong, sentence in problems:
            if wrong:
                raise ConfigError(f"The policy contradicts itself: {sentence}.")
        return self

    @property
    def least_run(self) -> float:
        return self.budget if self.budget_counts_review else self.review_window + self.budget


_FULL = Retry(0.25, 0.005, 0.050, jitter=Jitter.FULL, placement=Placement.ACTIVITY)

PRESETS: dict[str, Policy] = {
    policy.name: policy.check()
    for policy in (
        Policy("swift", 30, AtWindowEnd.TIME_OUT, 15, retry=_FULL),
        Policy("classic", 5, AtWindowEnd.APPROVE, 15, True, child_run_timeout=8, retry=Retry(3, 0.2, 1)),
        Policy("compact", 3, AtWindowEnd.APPROVE, 15, True, retry=Retry(1, 0.1, 1)),
        Policy("reviewed", 10, AtWindowEnd.TIME_OUT, 15, parent_close=WhenParentCloses.ABANDON, retry=Retry(2, 0.5, 2)),
        Policy("warehouse", 3, AtWindowEnd.TIME_OUT, 15, True, retry=Retry(2, 0.2, 1)),
        Policy("patient", 300, AtWindowEnd.TIME_OUT, 120, retry=Retry(2, 0.005, 0.2, max_tries=1000)),
    )
}


def preset(name: str) -> Policy:
    """One of the six presets by name, or ConfigError."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"There is no policy {name!r}. Choose one of {', '.join(PRESETS)}.") from None


def tuned(policy: Policy, **changes: Any) -> Policy:
    """`policy` with fields of itself or of its retry rule replaced, checked. Raises ConfigError."""
    ours = {one.name for one in fields(Policy)} - {"retry"}
    theirs = {one.name for one in fields(Retry)}
    unknown = sorted(set(changes) - ours - theirs)
    if unknown:
        raise ConfigError(f"A policy has no field {unknown[0]!r}. Known are {', '.join(sorted(ours | theirs))}.")
    kinds: dict[str, Any] = {
        "jitter": Jitter, "placement": Placement, "at_window_end": AtWindowEnd, "parent_close": WhenParentCloses
    }  # fmt: skip
    try:
        changes = {name: kinds[name](value) if name in kinds else value for name, value in changes.items()}
    except ValueError as error:
        raise ConfigError(f"The policy cannot be used: {error}.") from None
    retry = replace(policy.retry, **{name: value for name, value in changes.items() if name in theirs})
    own = {name: value for name, value in changes.items() if name in ours}
    return replace(policy, **({"name": f"{policy.name}*"} | own), retry=retry).check()
