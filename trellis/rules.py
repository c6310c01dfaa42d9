"""Decisions that replay: plain values in, plain values out, no Temporal and no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trellis.errors import BadInput
from trellis.model import (
    ATTEMPTS,
    FORWARD_STEPS,
    REQUEST_EVENTS,
    REVIEW,
    STATE_AFTER,
    STEP_OF,
    STEPS,
    EventType,
    State,
    Step,
)
from trellis.parsing import parse_address


def root_cause(failure: BaseException) -> str:
    """The innermost message of a chain of causes: the outside system's error, not the errors that wrap it."""
    while failure.__cause__ is not None:
        failure = failure.__cause__
    return str(failure) or type(failure).__name__


def next_step(
    state: str | None, *, closing: bool = False, last: str | None = None, last_step: str | None = None
) -> str | None:
    """What an order does now, derived from its row and its events: a step, REVIEW, or None when it has ended.

    `last` and `last_step` are the type and the step of its newest event that moved it on (see `newest_progress`).
    Without such an event the state alone decides. An order that is being undone (`closing`) is at its refund until it
    ends.
    """
    if state is not None and State(state).terminal:
        return None
    if last in ATTEMPTS:
        return last_step
    if closing:
        return Step.REFUND
    if last == EventType.DISPATCH_FAILED:
        return next(step for step in FORWARD_STEPS if STEPS[step].per_round)
    if last is None and state is not None:
        last = next(event for event, reached in STATE_AFTER.items() if reached == state)
    if last is None:
        return FORWARD_STEPS[0]
    done = STEP_OF.get(EventType(last))
    if done not in FORWARD_STEPS[:-1]:
        return None
    following = FORWARD_STEPS[FORWARD_STEPS.index(done) + 1]
    return REVIEW if following is Step.APPROVE else following


def newest_progress(events: Iterable[tuple[str, str | None]]) -> tuple[str | None, str | None]:
    """(type, step) of the last event that moved the order on, or of its last try. The events come oldest first."""
    found: tuple[str | None, str | None] = (None, None)
    for type_, step in events:
        if type_ not in REQUEST_EVENTS:
            found = (type_, step)
    return found


@dataclass(frozen=True)
class Permissions:
    """Which requests an order can still grant."""

    approve: bool
    cancel: bool
    update_address: bool


def permissions(
    state: str | None, *, claimed: bool, closing: bool, step: str | None, closed: bool = False
) -> Permissions:
    """Which requests an order can still grant.

    `claimed`: a dispatch has claimed its row. `closing`: it is being undone. `closed`: its workflow has closed, so it
    takes no requests. `step`: what it does now, as `next_step` returns it.
    """
    open_ = not (claimed or closing or closed or (state is not None and State(state).terminal))
    before_charge = step == REVIEW or step in FORWARD_STEPS[: FORWARD_STEPS.index(Step.APPROVE)]
    return Permissions(approve=open_ and before_charge, cancel=open_, update_address=open_)


@dataclass
class Budget:
    """The time that an order may spend working. Methods take the time now [s since the epoch].

    The budget is paused during a review that the policy does not count. A dispatch that claims the order ends it for
    good.
    """

    seconds: float
    _deadline: float | None = None
    _left: float | None = None

    def start(self, now: float) -> None:
        self._deadline = now + (self.seconds if self._left is None else self._left)
        self._left = None

    def pause(self, now: float) -> None:
        if self._deadline is not None:
            self._left = max(0.0, self._deadline - now)
            self._deadline = None

    def end(self) -> None:
        self._deadline = None
        self._left = None

    def left(self, now: float) -> float | None:
        """Seconds left, or None while nothing counts down."""
        return None if self._deadline is None else max(0.0, self._deadline - now)


@dataclass
class Progress:
    """What the order workflow knows of its order. With it, the workflow refuses requests without asking the ledger."""

    state: State = State.ORDER_RECEIVED
    review_over: bool = False
    shipped: bool = False
    ending: State | None = None

    @property
    def undoing(self) -> str | None:
        """Why the order takes no more requests; None if it still does."""
        if self.state.terminal:
            return f"the order is {self.state}"
        if self.ending is not None:
            return f"the order is ending as {self.ending}"
        return None

    def permissions(self, step: str | None) -> Permissions:
        return permissions(self.state, claimed=self.shipped, closing=self.ending is not None, step=step)

    def refuse_approve(self) -> str | None:
        if self.undoing:
            return self.undoing
        return "the review window is over" if self.review_over else None

    def refuse_cancel(self) -> str | None:
        if self.ending is State.CANCELLED:
            return None
        return self.undoing or ("the carrier already has the parcel" if self.shipped else None)

    def refuse_address(self, address: object) -> str | None:
        try:
            parse_address(address)
        except BadInput as malformed:
            return str(malformed)
        return self.undoing or ("the carrier already has the parcel's label" if self.shipped else None)
