"""Policies: every timeout, window, retry rule and deadline of an order, as one frozen value."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from trellis.errors import BadInput, ConfigError
from trellis.model import OUTSIDE_STEPS, STEPS, Step
from trellis.retry import Jitter, Placement, Retry, contradictions, says

__all__ = [
    "PRESETS",
    "AtWindowEnd",
    "Jitter",
    "Placement",
    "Policy",
    "Retry",
    "WhenParentCloses",
    "preset",
    "read_policy",
    "specification",
    "tuned",
    "with_budget",
]


class AtWindowEnd(StrEnum):
    APPROVE = "approve"
    TIME_OUT = "time_out"


class WhenParentCloses(StrEnum):
    REQUEST_CANCEL = "request_cancel"
    ABANDON = "abandon"
    TERMINATE = "terminate"


@dataclass(frozen=True)
class Policy:
    """Every timeout, window and retry rule of an order. Each field says which of Temporal's options it stands for.

    `retry` is the rule of every step that `steps` does not name. Ask `retry_of` for the one in force.
    """

    name: str = field(default="custom", metadata=says("what the policy is called"))
    review_window: float = field(
        default=30.0, metadata=says("how long an order waits for its approval", temporal="a timer", unit="s")
    )
    at_window_end: AtWindowEnd = field(
        default=AtWindowEnd.TIME_OUT,
        metadata=says("what happens to an order that nobody approved: it is approved, or it times out"),
    )
    budget: float = field(
        default=15.0,
        metadata=says("how long an order may work; then it is undone and fails", temporal="a timer", unit="s"),
    )
    budget_counts_review: bool = field(default=False, metadata=says("whether the review is part of the budget"))
    run_timeout: float | None = field(
        default=None,
        metadata=says(
            "Temporal's own limit, behind the budget; none: window + budget + 60 s", temporal="run_timeout", unit="s"
        ),
    )
    child_run_timeout: float | None = field(
        default=None,
        metadata=says(
            "how long one round of shipping may take", temporal="run_timeout of the child workflow", unit="s"
        ),
    )
    dispatch_retries: int = field(default=2, metadata=says("how many further rounds of shipping follow a failed one"))
    parent_close: WhenParentCloses = field(
        default=WhenParentCloses.REQUEST_CANCEL,
        metadata=says("what happens to a round when its order ends", temporal="parent_close_policy"),
    )
    retry: Retry = field(default_factory=Retry)
    # Not hashed: a dict has no hash, and policies are used as keys.
    steps: dict[str, Retry] = field(default_factory=dict, hash=False)

    @property
    def whole_run(self) -> float:
        return self.run_timeout or self.review_window + self.budget + 60.0

    @property
    def least_run(self) -> float:
        return self.budget if self.budget_counts_review else self.review_window + self.budget

    def retry_of(self, step: str) -> Retry:
        """The retry rule in force for a step. A step that must not stop half-way has no limit of tries."""
        rule = self.steps.get(step, self.retry)
        return replace(rule, max_tries=0) if step in _ENDLESS and rule.max_tries else rule

    def check(self, known: Collection[str] = OUTSIDE_STEPS) -> Policy:
        """Return the policy itself, or raise ConfigError with a sentence if it contradicts itself.

        `known`: the steps that may have rules of their own. An order's, or the activities of another workflow.
        """
        _check_types(self, "")
        for name, rule in self._rules():
            if not isinstance(rule, Retry):
                raise ConfigError(f"The policy's {name} must be a retry rule.")
            _check_types(rule, f"{name}.")
        problems = [
            *((step not in known, f"steps names {step!r}, and the steps that call out are "
               f"{', '.join(known)}") for step in self.steps),
            (self.budget <= 0, "budget must be more than 0"),
            (
                self.child_run_timeout is not None and self.child_run_timeout <= 0,
                "child_run_timeout must be more than 0",
            ),
            (not 0 <= self.dispatch_retries <= 100, "dispatch_retries must be from 0 to 100"),
            *(problem for name, rule in self._rules() for problem in contradictions(name, rule, self.budget)),
            *((step in _ENDLESS and rule.max_tries > 0, f"steps.{step}.max_tries must be 0, because {step} is tried "
               f"until it succeeds") for step, rule in self.steps.items()),
            (
                self.budget_counts_review and self.review_window >= self.budget,
                "the budget counts the review, but the review window alone uses it up",
            ),
            (
                self.run_timeout is not None and self.run_timeout <= self.least_run,
                f"run_timeout must be longer than {self.least_run:g} s, or Temporal would end the order "
                f"before it can compensate",
            ),
        ]  # fmt: skip
        for wrong, sentence in problems:
            if wrong:
                raise ConfigError(f"The policy contradicts itself: {sentence}.")
        return self

    def _rules(self) -> Iterator[tuple[str, Retry]]:
        yield "retry", self.retry
        for step, rule in self.steps.items():
            yield f"steps.{step}", rule


_ENDLESS = frozenset(step for step, info in STEPS.items() if info.endless)


_TYPES: dict[str, tuple[type, ...]] = {
    "float": (int, float), "float | None": (int, float, type(None)), "int": (int,), "bool": (bool,), "str": (str,),
}  # fmt: skip
_CHOICES: dict[str, type[StrEnum]] = {one.__name__: one for one in (Jitter, Placement, AtWindowEnd, WhenParentCloses)}


def _check_types(given: Policy | Retry, prefix: str) -> None:
    """Raise ConfigError for a value of a wrong type, and for a time that is out of range."""
    for one in fields(given):
        value, kind = getattr(given, one.name), str(one.type)
        if kind in _CHOICES and not isinstance(value, _CHOICES[kind]):
            raise ConfigError(f"The policy's {prefix}{one.name} must be one of {', '.join(_CHOICES[kind])}.")
        if kind not in _TYPES:
            continue
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise ConfigError(f"The policy's {prefix}{one.name} must be {_WORDS[kind]}, not {value!r}.")
        if isinstance(value, float | int) and kind.startswith("float") and not 0 <= value <= 30 * 86_400:
            raise ConfigError(f"The policy's {prefix}{one.name} must be from 0 to 2592000 (30 days in seconds).")


_WORDS = {
    "float": "a number", "float | None": "a number or null", "int": "a whole number", "bool": "true or false",
    "str": "text",
}  # fmt: skip

_QUICK = Retry(0.25, 0.005, 0.050, jitter=Jitter.FULL, placement=Placement.ACTIVITY)


def _bounded(rule: Retry, tries: int) -> dict[str, Any]:
    """The fields of a policy whose rounds of shipping end after `tries` tries of the dispatch.

    Without a limit the first round would go on until the budget ends, and no second round would start.
    """
    return {"retry": rule, "steps": {Step.DISPATCH.value: replace(rule, max_tries=tries)}}


PRESETS: dict[str, Policy] = {
    policy.name: policy.check()
    for policy in (
        # If two thirds of the calls fail, three rounds of n tries all fail in (2/3)^(3n) of the orders: 18 in a million
        # for nine tries, 8 in a thousand for four. Swift must complete every one of a thousand orders. The other
        # presets lose far more orders to their budget. Nine of their tries would take longer than the budget, so no
        # second round would start.
        Policy("swift", 30, AtWindowEnd.TIME_OUT, 15, **_bounded(_QUICK, 9)),
        # Here the child's run timeout ends a round.
        Policy("classic", 5, AtWindowEnd.APPROVE, 15, True, child_run_timeout=8, retry=Retry(3, 0.2, 1)),
        Policy("compact", 3, AtWindowEnd.APPROVE, 15, True, **_bounded(Retry(1, 0.1, 1), 4)),
        Policy("reviewed", 10, AtWindowEnd.TIME_OUT, 15, parent_close=WhenParentCloses.ABANDON,
               **_bounded(Retry(2, 0.5, 2), 4)),
        Policy("warehouse", 3, AtWindowEnd.TIME_OUT, 15, True, **_bounded(Retry(2, 0.2, 1), 4)),
        Policy("patient", 300, AtWindowEnd.TIME_OUT, 120, retry=Retry(2, 0.005, 0.2, max_tries=1000)),
    )
}  # fmt: skip


def preset(name: str) -> Policy:
    """One of the six presets by name, or ConfigError."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"There is no policy {name!r}. Choose one of {', '.join(PRESETS)}.") from None


def with_budget(policy: Policy, seconds: float) -> Policy:
    """`policy` with a budget of `seconds`, after which an order is undone. Raises ConfigError if that is too short.

    Temporal's own run timeout follows from the new budget: it leaves room for the review and the compensation.
    """
    counted = policy.review_window if policy.budget_counts_review else 0.0
    longest_try = max(rule.try_timeout for _, rule in policy._rules())
    least = max(counted, longest_try)
    if seconds <= least:
        why = (
            f"its review counts, and alone may last {counted:g} s" if least == counted
            else f"a single try may last {longest_try:g} s"
        )  # fmt: skip
        raise ConfigError(
            f"A budget of {seconds:g} s does not fit policy {policy.name}: {why}. Choose more than {least:g} s, or "
            f"another policy."
        )
    return replace(policy, budget=seconds, run_timeout=None).check()


def tuned(policy: Policy, steps: Mapping[str, Mapping[str, Any] | None] | None = None, **changes: Any) -> Policy:
    """`policy` with fields of itself or of its retry rules replaced, checked. Raises ConfigError.

    A field of a retry rule, given as a keyword, changes the rule of every step: `tuned(policy, try_timeout=1)`. `steps`
    then changes the rules of single steps: `steps={"dispatch": {"max_tries": 9}}`. None gives a step the general rule
    again.
    """
    of_policy = {one.name for one in fields(Policy)} - {"retry", "steps"}
    of_retry = {one.name for one in fields(Retry)}
    unknown = sorted(set(changes) - of_policy - of_retry)
    if unknown:
        raise ConfigError(
            f"A policy has no field {unknown[0]!r}. Known are {', '.join(sorted(of_policy | of_retry | {'steps'}))}."
        )
    general = _read(Retry, {name: value for name, value in changes.items() if name in of_retry})
    own = _read(Policy, {name: value for name, value in changes.items() if name in of_policy})
    rules = {step: replace(rule, **general) for step, rule in policy.steps.items()}
    changed = replace(policy, **({"name": f"{policy.name}*"} | own), retry=replace(policy.retry, **general))
    for step, change in _steps(steps).items():
        if change is None:
            rules.pop(step, None)
        else:
            base = rules.get(step, changed.retry_of(step))
            rules[step] = replace(base, **_read(Retry, change))
    # A limit for every step does not apply to the steps that must not stop half-way.
    rules = {
        step: replace(rule, max_tries=0)
        if step in _ENDLESS and "max_tries" not in (_steps(steps).get(step) or {}) else rule
        for step, rule in rules.items()
    }  # fmt: skip
    return replace(changed, steps=rules).check()


def _steps(given: object) -> Mapping[str, Mapping[str, Any] | None]:
    """The argument `steps` of `tuned`, checked. Raises ConfigError."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError('steps must be an object such as {"dispatch": {"max_tries": 9}}.')
    known = {one.name for one in fields(Retry)}
    for step, change in given.items():
        if step not in OUTSIDE_STEPS:
            raise ConfigError(f"There is no step {step!r} that calls out. Known are {', '.join(OUTSIDE_STEPS)}.")
        if change is not None and not isinstance(change, Mapping):
            raise ConfigError(f'The retry rule of {step} must be an object such as {{"max_tries": 9}}.')
        unknown = sorted(str(name) for name in set(change or {}) - known)
        if unknown:
            raise ConfigError(f"A retry rule has no field {unknown[0]!r}. Known are {', '.join(sorted(known))}.")
    return given


def _read(kind: type[Policy] | type[Retry], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, with text turned into members of an enum where the field has one. Raises ConfigError."""
    types = {one.name: str(one.type) for one in fields(kind)}
    try:
        return {
            name: _CHOICES[types[name]](value) if types[name] in _CHOICES else value for name, value in changes.items()
        }
    except ValueError as error:
        raise ConfigError(f"The policy cannot be used: {error}.") from None


def specification(kind: type[Policy] | type[Retry]) -> list[dict[str, Any]]:
    """What a form or a table needs of each field: name, says, temporal, unit, kind, choices, default.

    `kind` is number, whole, yes_no, text or choice. `temporal` is Temporal's option for the field, or empty.
    """
    kinds = {"float": "number", "float | None": "number", "int": "whole", "bool": "yes_no", "str": "text"}
    return [
        {
            "name": one.name, "kind": kinds.get(str(one.type), "choice"), "default": one.default,
            "choices": [str(choice) for choice in _CHOICES.get(str(one.type), ())], **one.metadata,
        }
        for one in fields(kind)
        if one.metadata
    ]  # fmt: skip


def read_policy(raw: object, default: str) -> Policy:
    """A policy that somebody sent: a preset's name, or an object of changes to the preset `default` or `preset`.

    None means `default`. Raises BadInput, with a sentence that says what is wrong.
    """
    try:
        if raw is None or isinstance(raw, str):
            return preset(default if raw is None else raw)
        if not isinstance(raw, dict):
            raise BadInput("The policy must be a preset's name, or an object of fields.")
        changes: dict[str, Any] = json.loads(json.dumps(raw, default=float))
        retry = changes.pop("retry", None) or {}
        base = preset(changes.pop("preset", default))
        return tuned(base, **{**changes, **retry})
    except TypeError as error:
        raise BadInput(f"The policy cannot be read: {error}.") from None
    except ConfigError as error:
        raise BadInput(str(error)) from None
