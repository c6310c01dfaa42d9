"""Calls that fail and hang on purpose, reproducibly.

The outcome of a try is a pure function of the plan, its seed and the try's identity, so a run can be repeated
whatever the scheduling. Business code calls an outside system through `FlakyCall` and does not know who fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from trellis.errors import ConfigError
from trellis.model import OUTSIDE_STEPS, TryId
from trellis.model import REPLY_CAN_BE_LOST as REPLY_CAN_BE_LOST


class Outcome(StrEnum):
    """What happens to one try. REPLY_LOST: the provider did it, the caller sees a failure."""

    OK = "ok"
    ERROR = "error"
    HANG = "hang"
    REPLY_LOST = "reply-lost"


class InjectedError(Exception):
    """The outside system raised, on purpose."""


@dataclass(frozen=True)
class Mix:
    """Probabilities of one try's outcomes, and the latency of good calls in seconds."""

    error: float = 0.0
    hang: float = 0.0
    reply_lost: float = 0.0
    latency: float = 0.0


@dataclass(frozen=True)
class FaultPlan:
    """Which calls fail, and how. `steps` overrides the mix of single steps; `script` fixes outcomes outright.

    A script is text such as ``dispatch: error, hang, ok; charge: reply-lost``: the outcomes of a step's tries
    in turn, anew in each round. ``|`` separates rounds ("dispatch: error | ok"), a ``*`` repeats an outcome for
    ever ("charge: hang*"). What comes after the end of a script is ok.
    """

    mix: Mix = field(default_factory=Mix)
    hang_seconds: float = 300.0
    seed: int = 0
    steps: dict[str, Mix] = field(default_factory=dict)
    script: str = ""

    @classmethod
    def canonical(cls, seed: int = 0) -> FaultPlan:
        """A third of the calls raise at once, a third sleep 300 s, a third return."""
        return cls(Mix(error=1 / 3, hang=1 / 3), seed=seed)

    @classmethod
    def calm(cls) -> FaultPlan:
        """Nothing fails."""
        return cls()

    @classmethod
    def scripted(cls, script: str, seed: int = 0) -> FaultPlan:
        return cls(script=script, seed=seed).check()

    def check(self) -> FaultPlan:
        """The plan itself, or ConfigError with a sentence."""
        for where, mix in [("plan", self.mix), *self.steps.items()]:
            if where != "plan" and where not in OUTSIDE_STEPS:
                raise ConfigError(f"There is no step {where!r} that calls out. Known are {', '.join(OUTSIDE_STEPS)}.")
            for name in ("error", "hang", "reply_lost"):
                value = getattr(mix, name)
                if not isinstance(value, int | float) or not 0 <= value <= 1:
                    raise ConfigError(f"The probability {name} of {where} must be from 0 to 1.")
            if mix.error + mix.hang + mix.reply_lost > 1 + 1e-9:
                raise ConfigError(f"The probabilities of {where} add up to more than 1.")
            if not math.isfinite(mix.latency) or not 0 <= mix.latency <= 3600:
                raise ConfigError(f"The latency of {where} must be from 0 to 3600 seconds.")
        if not math.isfinite(self.hang_seconds) or not 0 < self.hang_seconds <= 86_400:
            raise ConfigError("hang_seconds must be more than 0 and at most a day.")
        _parse_script(self.script)
        return self

    def with_step(self, step: str | None, **changes: float) -> FaultPlan:
        """The plan with one step's mix (or the general one) changed."""
        if step is None:
            return replace(self, mix=replace(self.mix, **changes)).check()
        mix = replace(self.steps.get(step, self.mix), **changes)
        return replace(self, steps={**self.steps, step: mix}).check()

    def mix_of(self, step: str) -> Mix:
        return self.steps.get(step, self.mix)

    def outcome(self, attempt: TryId) -> Outcome:
        scripted = self._scripted(attempt)
        if scripted is not None:
            return scripted
        mix = self.mix_of(attempt.step)
        draw = self.draw(attempt, "outcome")
        if draw < mix.error:
            return Outcome.ERROR
        if draw < mix.error + mix.hang:
            return Outcome.HANG
        if draw < mix.error + mix.hang + mix.reply_lost and attempt.step in REPLY_CAN_BE_LOST:
            return Outcome.REPLY_LOST
        return Outcome.OK

    def _scripted(self, attempt: TryId) -> Outcome | None:
        rounds = _parse_script(self.script).get(attempt.step)
        if rounds is None:
            return None
        outcomes, repeats = rounds[min(max(attempt.round - 1, 0), len(rounds) - 1)]
        index = attempt.execution + attempt.try_ - 2
        if index < len(outcomes):
            return outcomes[index]
        return outcomes[-1] if repeats else Outcome.OK

    def draw(self, attempt: TryId, purpose: str) -> float:
        """A uniform number in [0, 1) that depends on seed, identity and purpose alone."""
        text = "\x1f".join(
            str(part)
            for part in (
                self.seed, attempt.order_id, attempt.step, attempt.round, attempt.execution, attempt.lane,
                attempt.try_, purpose,
            )
        )  # fmt: skip
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: object) -> FaultPlan:
        """Read what `to_json` wrote, or what a person did. Raises ConfigError."""
        if not isinstance(raw, dict):
            raise ConfigError('A fault plan must be an object such as {"mix": {"error": 0.3, "hang": 0.1}}.')
        try:
            known = {**raw}
            if "mix" in known:
                known["mix"] = Mix(**known["mix"])
            known["steps"] = {step: Mix(**mix) for step, mix in known.get("steps", {}).items()}
            return cls(**known).check()
        except (TypeError, AttributeError):
            allowed = ", ".join(one.name for one in (*fields(cls), *fields(Mix)))
            raise ConfigError(
                f"The fault plan has a field nobody knows or a wrong type. Known are {allowed}."
            ) from None

    @classmethod
    def parse(cls, text: str) -> FaultPlan:
        """`canonical`, `calm`, a JSON object, or a script. Raises ConfigError."""
        text = text.strip()
        if text == "canonical":
            return cls.canonical()
        if text == "calm":
            return cls.calm()
        if text.startswith("{"):
            try:
                return cls.from_json(json.loads(text))
            except ValueError:
                raise ConfigError("The fault plan is not valid JSON.") from None
        if ":" in text:
            return cls.scripted(text)
        raise ConfigError(f"The fault plan {text[:40]!r} is neither canonical, calm, JSON, nor a script.")


_Script = dict[str, list[tuple[tuple[Outcome, ...], bool]]]
_parsed: dict[str, _Script] = {}


def _parse_script(script: str) -> _Script:
    if script in _parsed:
        return _parsed[script]
    plan: _Script = {}
    for part in filter(None, (part.strip() for part in re.split(r"[;\n]", script))):
        step, _, outcomes = part.partition(":")
        step = step.strip()
        if step not in OUTSIDE_STEPS:
            raise ConfigError(
                f"The script names no step that calls out: {step!r}. Known are {', '.join(OUTSIDE_STEPS)}."
            )
        rounds = []
        for words in outcomes.split("|"):
            names = [word.strip() for word in words.split(",")]
            repeats = names[-1].endswith("*")
            try:
                rounds.append((tuple(Outcome(name.rstrip("*")) for name in names), repeats))
            except ValueError:
                raise ConfigError(f"The script for {step} may say ok, error, hang and reply-lost only.") from None
        plan[step] = rounds
    _parsed[script] = plan
    return plan


@dataclass(frozen=True)
class PlanInForce:
    """A plan with its version in the ledger; 0 when it comes from the environment or from nowhere."""

    plan: FaultPlan
    version: int = 0


def plan_in_force(stored: PlanInForce | None, named: str | None) -> PlanInForce:
    """The plan that the ledger holds; else the one that TRELLIS_FAULTS names; else the canonical one.

    Raises ConfigError for a name that is no plan.
    """
    return stored or PlanInForce(FaultPlan.parse(named or "canonical"))


class FlakyCall:
    """The stub that stands where an outside system would be; it runs first in every outside step."""

    def __init__(self, in_force: Callable[[], PlanInForce]) -> None:
        self._in_force = in_force

    @property
    def current(self) -> PlanInForce:
        return self._in_force()

    async def __call__(self, plan: FaultPlan, attempt: TryId) -> bool:
        """Fail, hang or pass. True: the provider must be called, and its reply then lost."""
        outcome = plan.outcome(attempt)
        if outcome is Outcome.ERROR:
            raise InjectedError(f"{attempt.step} failed on purpose")
        if outcome is Outcome.HANG:
            await asyncio.sleep(plan.hang_seconds)
        elif (latency := plan.mix_of(attempt.step).latency) > 0:
            await asyncio.sleep(latency)
        return outcome is Outcome.REPLY_LOST
