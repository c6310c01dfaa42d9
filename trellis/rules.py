"""Decisions that replay: plain values in, plain values out, no Temporal and no clock."""

from __future__ import annotations

from dataclasses import dataclass

from trellis.errors import BadInput
from trellis.model import State
from trellis.parsing import parse_address


def root_cause(failure: BaseException) -> str:
    """The innermost message of a chain of causes: what the outside system said, not who passed it on."""
    while failure.__cause__ is not None:
        failure = failure.__cause__
    return str(failure) or type(failure).__name__


@dataclass
class Budget:
    """The time an order may spend working. Seconds since the epoch in, seconds left out.

    Paused while a review runs that the policy does not count; ended for good by a claim.
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
    """What the parent knows of its order, and what it can therefore refuse at once."""

    state: State = State.ORDER_RECEIVED
    review_over: bool = False
    shipped: bool = False
    ending: State | None = None

    @property
    def undoing(self) -> str | None:
        """Why nothing can be asked any more, or None."""
        if self.state.terminal:
            return f"the order is {self.state}"
        if self.ending is not None:
            return f"the order is ending as {self.ending}"
        return None

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
