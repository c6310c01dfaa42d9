"""Calls that fail and hang on purpose, reproducibly.

The outcome of a try is a pure function of the plan, its seed and the call (order, step, round, lane, ordinal). The
ordinal counts the calls of a lane, whether a loop in one activity execution makes them or Temporal starts an execution
for each. So a run can be repeated whatever the scheduling, and two policies can be compared with the same luck.

Time and load add to that: outages, and a provider of finite capacity (`trellis.outages`). What they did to a try is
marked on its event.

Business code calls an outside system through the flaky call (`trellis.flaky`) and does not know that faults
are injected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from trellis.errors import ConfigError
from trellis.model import OUTSIDE_STEPS, REPLY_CAN_BE_LOST, TryId
from trellis.outages import (
    Capacity,
    Outage,
    Outages,
    RandomOutages,
    check_capacity,
    check_outages,
    outage_at,
    read_outages,
    uniform,
)


class Outcome(StrEnum):
    """What happens to one try. REPLY_LOST: the provider did it, the caller sees a failure."""

    OK = "ok"
    ERROR = "error"
    HANG = "hang"
    REPLY_LOST = "reply-lost"


class InjectedError(Exception):
    """The outside system raised, on purpose."""


class ForeignNames(tuple[str, ...]):
    """Activity types of an app that runs with `trellis.plugin`, which can do any kind of fault to any of them."""


class AnyName(ForeignNames):
    """In place of the names of a plan: it may name anything."""

    def __contains__(self, name: object) -> bool:
        return True


@dataclass(frozen=True)
class Kind:
    """A kind of fault, for people and pages: a field of `Mix`.

    `outcome`: what happens to that share of the calls; None if the field is not a share. `unit`: "share" or "s".
    `most`: the largest value. `only`: the steps that can have this fault, None for all. `slider`: a slider's largest
    value and its stride.
    """

    label: str
    says: str
    outcome: Outcome | None = None
    unit: str = "share"
    most: float = 1.0
    only: frozenset[str] | None = None
    slider: tuple[float, float] = (1.0, 0.01)

    def possible(self, step: str) -> bool:
        return self.only is None or step in self.only


def _kind(label: str, says: str, outcome: Outcome | None = None, **more: Any) -> dict[str, Kind]:
    return {"kind": Kind(label, says, outcome, **more)}


@dataclass(frozen=True)
class Mix:
    """The share of the calls with each fault, and the latency of good calls in seconds.

    To add a kind of fault, add a field here, its Outcome, and what the flaky call does then. Checks, sliders and texts
    are derived from the fields.
    """

    error: float = field(
        default=0.0, metadata=_kind("Raise at once", "Share of the calls that raise at once", Outcome.ERROR)
    )
    hang: float = field(default=0.0, metadata=_kind("Hang", "Share of the calls that hang", Outcome.HANG))
    reply_lost: float = field(
        default=0.0,
        metadata=_kind(
            "Done, but reply lost",
            "Share of the calls that do their work and look failed",
            Outcome.REPLY_LOST,
            only=frozenset(REPLY_CAN_BE_LOST),
        ),
    )
    latency: float = field(
        default=0.0,
        metadata=_kind(
            "Latency of good calls", "Seconds that a good call takes", unit="s", most=3600.0, slider=(3.0, 0.05)
        ),
    )

    def shares(self) -> dict[Outcome, float]:
        """The share of each outcome but OK."""
        return {kind.outcome: getattr(self, name) for name, kind in KINDS.items() if kind.outcome is not None}


KINDS: dict[str, Kind] = {one.name: one.metadata["kind"] for one in fields(Mix)}
"""The kinds of faults by the names of their fields."""


def sliders() -> list[dict[str, Any]]:
    """What a page needs to draw one slider for each kind of fault.

    name, label, says, unit ("share" or "s"), least, most, stride, steps (those that can have it, None for all).
    """
    return [
        {
            "name": name, "label": kind.label, "says": kind.says, "unit": kind.unit, "least": 0.0,
            "most": kind.slider[0], "stride": kind.slider[1],
            "steps": None if kind.only is None else sorted(kind.only),
        }
        for name, kind in KINDS.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class FaultPlan:
    """Which calls fail, and how. `steps` overrides the mix of single steps; `script` fixes outcomes.

    `outages` are windows in which all calls of a step fail, whatever the mix and the script say. `capacity` holds, by
    step, how many calls its provider serves at once.

    A script is text such as ``dispatch: error, hang, ok; charge: reply-lost``: the outcomes of a step's tries in turn,
    from the beginning in each round. ``|`` separates rounds ("dispatch: error | ok"), a ``*`` repeats an outcome for
    ever ("charge: hang*"). Calls after the end of a script are ok.

    `names` are the steps that the plan may name. They can be the activity types of another workflow. They are not part
    of the plan's JSON: the code that reads a plan passes them in. With ForeignNames, every kind of fault is possible.
    """

    mix: Mix = field(default_factory=Mix)
    hang_seconds: float = 300.0
    seed: int = 0
    steps: dict[str, Mix] = field(default_factory=dict)
    script: str = ""
    outages: Outages = ()
    capacity: dict[str, Capacity] = field(default_factory=dict)
    names: tuple[str, ...] = field(default=OUTSIDE_STEPS, compare=False, repr=False)

    @classmethod
    def canonical(cls, seed: int = 0) -> FaultPlan:
        """A third of the calls raise at once, a third sleep 300 s, a third return."""
        return cls(Mix(error=1 / 3, hang=1 / 3), seed=seed)

    @classmethod
    def calm(cls) -> FaultPlan:
        """Nothing fails."""
        return cls()

    @classmethod
    def scripted(cls, script: str, seed: int = 0, names: Sequence[str] = OUTSIDE_STEPS) -> FaultPlan:
        return cls(script=script, seed=seed, names=_kept(names)).check()

    def check(self) -> FaultPlan:
        """The plan itself, or ConfigError with a sentence."""
        known = ", ".join(self.names)
        for step in self.steps:
            if step not in self.names:
                raise ConfigError(f"There is no step {step!r} that calls out. Known are {known}.")
        for where, mix in [("the plan", self.mix), *self.steps.items()]:
            _check_mix(mix, where)
        if not _number(self.hang_seconds, 86_400) or self.hang_seconds <= 0:
            raise ConfigError("hang_seconds must be more than 0 and at most a day.")
        for step in _parse_script(self.script):
            if step not in self.names:
                raise ConfigError(f"The script names no step that calls out: {step!r}. Known are {known}.")
        check_outages(self.outages, self.names)
        check_capacity(self.capacity, self.names)
        return self

    def with_step(self, step: str | None, **changes: float) -> FaultPlan:
        """The plan with one step's mix (or the general one) changed."""
        if step is None:
            return replace(self, mix=replace(self.mix, **changes)).check()
        mix = replace(self.steps.get(step, self.mix), **changes)
        return replace(self, steps={**self.steps, step: mix}).check()

    def with_outages(self, *outages: Outage | RandomOutages) -> FaultPlan:
        """The plan with these outages in place of its own."""
        return replace(self, outages=outages).check()

    def with_capacity(self, step: str, capacity: Capacity | None) -> FaultPlan:
        """The plan with another capacity of a step's provider; None: it serves every call at once."""
        others = {name: one for name, one in self.capacity.items() if name != step}
        return replace(self, capacity=others if capacity is None else {**others, step: capacity}).check()

    def moved(self, step: str | None, name: str, value: float) -> FaultPlan:
        """The plan with one slider moved, for one step or for all. Raises ConfigError.

        If the shares would add up to more than 1, the other shares shrink in proportion. The script is removed, because
        it would hide what the slider does.
        """
        if name not in KINDS:
            raise ConfigError(f"There is no fault {name!r}. Known are {', '.join(KINDS)}.")

        def mixed(mix: Mix) -> Mix:
            mix = replace(mix, **{name: value})
            others = [other for other, kind in KINDS.items() if kind.outcome is not None and other != name]
            total = sum(getattr(mix, other) for other in others)
            if KINDS[name].outcome is None or total + value <= 1:
                return mix
            room = max(0.0, 1 - value) / total
            return replace(mix, **{other: getattr(mix, other) * room for other in others})

        if step is None:
            steps = {one: mixed(mix) for one, mix in self.steps.items()}
            return replace(self, mix=mixed(self.mix), steps=steps, script="").check()
        return replace(self, steps={**self.steps, step: mixed(self.mix_of(step))}, script="").check()

    def mix_of(self, step: str) -> Mix:
        return self.steps.get(step, self.mix)

    def outcome(self, attempt: TryId) -> Outcome:
        scripted = self._scripted(attempt)
        if scripted is not None:
            return scripted
        draw, below = self.draw(attempt, "outcome"), 0.0
        mix = self.mix_of(attempt.step)
        for name, kind in KINDS.items():
            if kind.outcome is None:
                continue
            below += getattr(mix, name)
            if draw < below:
                possible = kind.possible(attempt.step) or isinstance(self.names, ForeignNames)
                return kind.outcome if possible else Outcome.OK
        return Outcome.OK

    def out(self, step: str, since: float) -> Outage | None:
        """The outage of a step in force `since` seconds after the plan's outages came into force."""
        return outage_at(self.outages, step, self.seed, since) if self.outages else None

    def _scripted(self, attempt: TryId) -> Outcome | None:
        rounds = _parse_script(self.script).get(attempt.step)
        if rounds is None:
            return None
        outcomes, repeats = rounds[min(max(attempt.round - 1, 0), len(rounds) - 1)]
        if attempt.ordinal <= len(outcomes):
            return outcomes[attempt.ordinal - 1]
        return outcomes[-1] if repeats else Outcome.OK

    def draw(self, attempt: TryId, purpose: str) -> float:
        """A uniform number in [0, 1) that depends on seed, order, step, round, lane, ordinal and purpose alone.

        It does not depend on execution and try separately, so the third call of a step has the same luck in both
        placements.
        """
        return uniform(self.seed, attempt.order_id, attempt.step, attempt.round, attempt.lane, attempt.ordinal, purpose)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "names"}

    @classmethod
    def from_json(cls, raw: object, names: Sequence[str] = OUTSIDE_STEPS) -> FaultPlan:
        """Read what `to_json` or a person wrote. Raises ConfigError."""
        if not isinstance(raw, dict):
            raise ConfigError('A fault plan must be an object such as {"mix": {"error": 0.3, "hang": 0.1}}.')
        try:
            known = {**raw}
            if "mix" in known:
                known["mix"] = Mix(**known["mix"])
            known["steps"] = {step: Mix(**mix) for step, mix in known.get("steps", {}).items()}
            known["outages"] = read_outages(known.get("outages", ()))
            known["capacity"] = {step: Capacity(**one) for step, one in known.get("capacity", {}).items()}
            # The caller says which names a plan may hold, not the plan.
            return cls(**known, names=_kept(names)).check()
        except (TypeError, AttributeError):
            kinds = (cls, Mix, Outage, RandomOutages, Capacity)
            names_ = dict.fromkeys(one.name for kind in kinds for one in fields(kind) if one.name != "names")
            allowed = ", ".join(names_)
            raise ConfigError(
                f"The fault plan has an unknown field or a value of a wrong type. Known are {allowed}."
            ) from None

    @classmethod
    def parse(cls, text: str, names: Sequence[str] = OUTSIDE_STEPS) -> FaultPlan:
        """`canonical`, `calm`, a JSON object, or a script. Raises ConfigError."""
        text = text.strip()
        if text in ("canonical", "calm"):
            return replace(cls.canonical() if text == "canonical" else cls.calm(), names=_kept(names))
        if text.startswith("{"):
            try:
                return cls.from_json(json.loads(text), names)
            except ValueError:
                raise ConfigError("The fault plan is not valid JSON.") from None
        if ":" in text:
            return cls.scripted(text, names=names)
        raise ConfigError(f"The fault plan {text[:40]!r} is neither canonical, calm, JSON, nor a script.")


def _kept(names: Sequence[str]) -> tuple[str, ...]:
    # A tuple of its own kind, such as AnyName, says itself what it contains.
    return names if isinstance(names, tuple) else tuple(names)


def _number(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _check_mix(mix: Mix, where: str) -> None:
    for name, kind in KINDS.items():
        if not _number(getattr(mix, name), kind.most):
            what, unit = ("share", "") if kind.outcome is not None else (name, " seconds")
            of = f" {name}" if kind.outcome is not None else ""
            raise ConfigError(f"The {what}{of} of {where} must be from 0 to {kind.most:g}{unit}.")
    if sum(mix.shares().values()) > 1 + 1e-9:
        raise ConfigError(f"The shares of {where} add up to more than 1.")


_Script = dict[str, list[tuple[tuple[Outcome, ...], bool]]]
_parsed: dict[str, _Script] = {}


def _parse_script(script: str) -> _Script:
    if script in _parsed:
        return _parsed[script]
    plan: _Script = {}
    for part in filter(None, (part.strip() for part in re.split(r"[;\n]", script))):
        step, _, outcomes = part.partition(":")
        step = step.strip()
        rounds = []
        for words in outcomes.split("|"):
            names = [word.strip() for word in words.split(",")]
            repeats = names[-1].endswith("*")
            try:
                rounds.append((tuple(Outcome(name.rstrip("*")) for name in names), repeats))
            except ValueError:
                raise ConfigError(f"The script for {step} may say {', '.join(Outcome)} only.") from None
        plan[step] = rounds
    _parsed[script] = plan
    return plan


@dataclass(frozen=True)
class PlanInForce:
    """A plan with its version in the ledger. The version is 0 if the plan is not from the ledger.

    `since`: when its outages came into force, by the database's clock, so that all processes agree. A later plan with
    the same outages keeps it. None: not known, and no outage is in force.
    """

    plan: FaultPlan
    version: int = 0
    since: datetime | None = None

    def out(self, step: str, now: datetime) -> Outage | None:
        """The outage of a step that is in force now."""
        return None if self.since is None else self.plan.out(step, (now - self.since).total_seconds())


def plan_in_force(stored: PlanInForce | None, named: str | None) -> PlanInForce:
    """The plan that the ledger holds; else the one that TRELLIS_FAULTS names; else the canonical one.

    Raises ConfigError if that name is not a plan.
    """
    return stored or PlanInForce(FaultPlan.parse(named or "canonical"))
