"""How one step is tried: the retry rule of a policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


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


def says(sentence: str, *, temporal: str = "", unit: str = "") -> dict[str, str]:
    """What people read about a field: a sentence, Temporal's option for it, its unit."""
    return {"says": sentence, "temporal": temporal, "unit": unit}


@dataclass(frozen=True)
class Retry:
    """How one step is tried. Each field says which of Temporal's options it stands for."""

    try_timeout: float = field(
        default=0.25, metadata=says("how long one attempt may take", temporal="start_to_close_timeout", unit="s")
    )
    first_backoff: float = field(
        default=0.005, metadata=says("the pause after the first failed attempt", temporal="initial_interval", unit="s")
    )
    max_backoff: float = field(default=0.05, metadata=says("the longest pause", temporal="maximum_interval", unit="s"))
    multiplier: float = field(
        default=2.0, metadata=says("how much longer each pause is", temporal="backoff_coefficient")
    )
    jitter: Jitter = field(
        default=Jitter.NONE, metadata=says("full: each pause is a random share of its length (placement activity)")
    )
    max_tries: int = field(default=0, metadata=says("how many attempts, 0 for no limit", temporal="maximum_attempts"))
    placement: Placement = field(
        default=Placement.SERVER,
        metadata=says("server: Temporal starts each attempt; activity: a loop inside one activity does"),
    )
    hedge: int = field(
        default=1, metadata=says("how many attempts run side by side; the first success wins (placement activity)")
    )
    retry_share: float | None = field(
        default=None,
        metadata=says(
            "retry budget of a worker: how many retries each first attempt pays for while nothing succeeds; none: no "
            "budget (placement activity)"
        ),
    )
    slow_after: int = field(
        default=0,
        metadata=says(
            "after how many failures of the step in a row, of all orders of a worker, pauses become longer; 0: never "
            "(placement activity)"
        ),
    )
    slow_backoff: float = field(
        default=0.0, metadata=says("the longer pause, until an attempt succeeds (placement activity)", unit="s")
    )

    @property
    def governed(self) -> bool:
        """Whether retries depend on what happens to other orders of the worker; see `trellis.governor`."""
        return self.retry_share is not None or self.slow_after > 0

    def backoff(self, failures: int, draw: float) -> float:
        """Seconds to wait after the `failures`-th failure in a row (1-based); `draw` is uniform in [0, 1).

        Full jitter is uniform between nothing and the exponential step (Brooker, "Exponential Backoff And
        Jitter", AWS Architecture Blog, 2015).
        """
        try:
            step = min(self.max_backoff, self.first_backoff * self.multiplier ** (failures - 1))
        except OverflowError:
            step = self.max_backoff if self.first_backoff else 0.0
        return step * draw if self.jitter is Jitter.FULL else step


def contradictions(name: str, rule: Retry, budget: float) -> list[tuple[bool, str]]:
    """(is it so, the sentence), for everything that may be wrong with the rule called `name`."""
    server = rule.placement is Placement.SERVER
    return [
        (rule.try_timeout <= 0, f"{name}.try_timeout must be more than 0"),
        (rule.multiplier < 1, f"{name}.multiplier must be at least 1, or backoffs would shrink"),
        (rule.first_backoff > rule.max_backoff, f"{name}.first_backoff is longer than {name}.max_backoff"),
        (rule.max_tries < 0, f"{name}.max_tries must be 0 (no limit) or more"),
        (not 1 <= rule.hedge <= 8, f"{name}.hedge must be from 1 to 8"),
        (
            server and rule.hedge > 1,
            f"{name} hedges, which needs placement activity: the server runs one execution of a step at a time",
        ),
        (
            server and rule.jitter is not Jitter.NONE,
            f"{name} has jitter, which needs placement activity: the server's backoff has none to set",
        ),
        (
            server and rule.governed,
            f"{name} has a retry budget or a longer pause (retry_share, slow_after), which needs placement activity: "
            f"the server retries each order by itself",
        ),
        (
            rule.retry_share is not None and rule.retry_share > 10,
            f"{name}.retry_share must be from 0 to 10 retries for each first try",
        ),
        (rule.slow_after < 0, f"{name}.slow_after must be 0 (never) or more"),
        (
            (rule.slow_after > 0) != (rule.slow_backoff > 0),
            f"{name}.slow_after and {name}.slow_backoff belong together: after how many failures, and how long",
        ),
        (
            0 < rule.slow_backoff < rule.max_backoff,
            f"{name}.slow_backoff is shorter than {name}.max_backoff, so the pause would not become longer",
        ),
        (rule.try_timeout >= budget, f"a single try of {name} may last as long as the whole budget"),
    ]
