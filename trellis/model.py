"""The vocabulary: orders, money, addresses, states, steps and events. Imports only the standard library.

Money is an integer number of cents everywhere in Python; only the ledger's columns are decimal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

_NAMESPACE = uuid.UUID("6f0d2f4e-6f0c-4a37-9c3e-7a1f2f0f8a11")


class State(StrEnum):
    ORDER_RECEIVED = "ORDER_RECEIVED"
    ORDER_VALIDATED = "ORDER_VALIDATED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    PAYMENT_CHARGED = "PAYMENT_CHARGED"
    SHIPPING = "SHIPPING"
    SHIPPED = "SHIPPED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    APPROVAL_TIMEOUT = "APPROVAL_TIMEOUT"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.APPROVAL_TIMEOUT})


class EventType(StrEnum):
    ORDER_RECEIVED = "ORDER_RECEIVED"
    ORDER_VALIDATED = "ORDER_VALIDATED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    ORDER_APPROVED = "ORDER_APPROVED"
    APPROVAL_TIMEOUT = "APPROVAL_TIMEOUT"
    PAYMENT_CHARGED = "PAYMENT_CHARGED"
    PAYMENT_FAILED = "PAYMENT_FAILED"
    PAYMENT_REFUNDED = "PAYMENT_REFUNDED"
    ADDRESS_UPDATED = "ADDRESS_UPDATED"
    SHIPPING_STARTED = "SHIPPING_STARTED"
    PACKAGE_PREPARED = "PACKAGE_PREPARED"
    CARRIER_DISPATCHED = "CARRIER_DISPATCHED"
    DISPATCH_FAILED = "DISPATCH_FAILED"
    ORDER_SHIPPED = "ORDER_SHIPPED"
    ORDER_COMPLETED = "ORDER_COMPLETED"
    ORDER_CANCELLED = "ORDER_CANCELLED"
    ORDER_FAILED = "ORDER_FAILED"
    REQUEST_REFUSED = "REQUEST_REFUSED"
    ATTEMPT_FAILED = "ATTEMPT_FAILED"
    ATTEMPT_TIMED_OUT = "ATTEMPT_TIMED_OUT"
    ATTEMPT_ABANDONED = "ATTEMPT_ABANDONED"


ATTEMPTS: dict[EventType, str] = {
    EventType.ATTEMPT_FAILED: "failed",
    EventType.ATTEMPT_TIMED_OUT: "timed out",
    EventType.ATTEMPT_ABANDONED: "abandoned",
}
"""The events of tries without success, and the word for each."""

REQUEST_EVENTS = (EventType.ADDRESS_UPDATED, EventType.REQUEST_REFUSED)
"""Events of requests. They do not move the order on, and an order may have any number of them."""

UNDONE = "the order is being undone"
CHARGE_VOIDED = "the charge was voided before it arrived"
CHARGED_OTHERWISE = "this payment id was already charged for something else"
PARCEL_VOIDED = "the parcel was voided before it was sent"
REFUSED_FOR_GOOD = (UNDONE, CHARGE_VOIDED, CHARGED_OTHERWISE, PARCEL_VOIDED)
"""What a call is told that must not be made again. The audit looks for calls that were made again all the same."""


class Step(StrEnum):
    """One unit of work, done by one activity. STEPS says what each step does."""

    RECEIVE = "receive"
    VALIDATE = "validate"
    APPROVE = "approve"
    CHARGE = "charge"
    PREPARE = "prepare"
    DISPATCH = "dispatch"
    SHIP = "ship"
    COMPLETE = "complete"
    REFUND = "refund"
    CANCEL = "cancel"
    FAIL = "fail"
    UPDATE_ADDRESS = "update_address"


REVIEW = "review"
"""What an order does while it waits for its approval. It stands where a step's name would, but is not a step."""

Leaves = Mapping[EventType, State | None]


@dataclass(frozen=True)
class StepInfo:
    """What the rest of Trellis knows of a step.

    `label`: a few words for people. `leaves`: the events that a success can leave, each with the state that follows
    (None: the state stays). A success leaves exactly one of them. `also`: further events of the same transaction.
    `queue`: the queue of the activity. `calls_out`: the step calls an outside system, so its calls may fail and are
    tried again. `forward`: the step belongs to an order that completes. `per_round`: it leaves its event once in each
    round of shipping, not once for the order. `reply_can_be_lost`: the provider records the call, so the call may
    succeed there although its caller sees a failure. `endless`: it is tried until it succeeds, whatever the policy
    says, because stopping half-way would lose money or a parcel. `activity`: the activity type, if it differs from the
    step's name.
    """

    label: str
    leaves: Leaves
    also: Leaves = field(default_factory=dict)
    queue: str = "orders"
    calls_out: bool = False
    forward: bool = False
    per_round: bool = False
    reply_can_be_lost: bool = False
    endless: bool = False
    activity: str = ""


_FINISH = "finish"

STEPS: dict[Step, StepInfo] = {
    Step.RECEIVE: StepInfo(
        "take the order in", {EventType.ORDER_RECEIVED: State.ORDER_RECEIVED}, calls_out=True, forward=True
    ),
    Step.VALIDATE: StepInfo(
        "check the order",
        {EventType.ORDER_VALIDATED: State.ORDER_VALIDATED},
        {EventType.AWAITING_APPROVAL: State.AWAITING_APPROVAL},
        calls_out=True,
        forward=True,
    ),
    Step.APPROVE: StepInfo("note the approval", {EventType.ORDER_APPROVED: None}, forward=True),
    Step.CHARGE: StepInfo(
        "take the money",
        {EventType.PAYMENT_CHARGED: State.PAYMENT_CHARGED},
        calls_out=True,
        forward=True,
        reply_can_be_lost=True,
    ),
    Step.PREPARE: StepInfo(
        "prepare the package",
        {EventType.PACKAGE_PREPARED: None},
        {EventType.SHIPPING_STARTED: State.SHIPPING},
        queue="shipping",
        calls_out=True,
        forward=True,
        per_round=True,
    ),
    # Not per round: the first success ends the rounds.
    Step.DISPATCH: StepInfo(
        "hand the parcel to the carrier",
        {EventType.CARRIER_DISPATCHED: None},
        queue="shipping",
        calls_out=True,
        forward=True,
        reply_can_be_lost=True,
    ),
    Step.SHIP: StepInfo(
        "mark as shipped", {EventType.ORDER_SHIPPED: State.SHIPPED}, calls_out=True, forward=True, endless=True
    ),
    Step.COMPLETE: StepInfo(
        "complete the order", {EventType.ORDER_COMPLETED: State.COMPLETED}, forward=True, activity=_FINISH
    ),
    # A refund that finds a parcel goes forward instead.
    Step.REFUND: StepInfo(
        "void the parcel, return the money",
        {EventType.PAYMENT_REFUNDED: None, EventType.PAYMENT_FAILED: None, EventType.CARRIER_DISPATCHED: None},
        calls_out=True,
        reply_can_be_lost=True,
        endless=True,
    ),
    Step.CANCEL: StepInfo("end as cancelled", {EventType.ORDER_CANCELLED: State.CANCELLED}, activity=_FINISH),
    Step.FAIL: StepInfo(
        "end as failed",
        {EventType.ORDER_FAILED: State.FAILED, EventType.APPROVAL_TIMEOUT: State.APPROVAL_TIMEOUT},
        activity=_FINISH,
    ),
    Step.UPDATE_ADDRESS: StepInfo("change the address", {EventType.ADDRESS_UPDATED: None}),
}
"""The one table of steps. The steps with `forward` come in the order in which they run."""

QUEUES = tuple(dict.fromkeys(info.queue for info in STEPS.values()))
FORWARD_STEPS = tuple(step for step, info in STEPS.items() if info.forward)
OUTSIDE_STEPS = tuple(step for step, info in STEPS.items() if info.calls_out)
FORWARD_OUTSIDE_STEPS = tuple(step for step in FORWARD_STEPS if STEPS[step].calls_out)
"""The outside steps of an order that completes."""
REPLY_CAN_BE_LOST = frozenset(step for step, info in STEPS.items() if info.reply_can_be_lost)

STEP_OF: Mapping[EventType, Step] = {
    event: step for step in reversed(STEPS) for event in (*STEPS[step].leaves, *STEPS[step].also)
}
"""The step that leaves an event. If two steps can leave it, this is the first of them in the table."""

STATE_AFTER: Mapping[EventType, State] = {
    event: state
    for info in STEPS.values()
    for event, state in (*info.leaves.items(), *info.also.items())
    if state is not None
}
"""The state after an event. Events that are not here change no state."""

PATH = tuple(state for event, state in STATE_AFTER.items() if STEP_OF[event] in FORWARD_STEPS)
"""The states of an order that completes, in their order."""

ENDINGS: Mapping[State, tuple[EventType, Step]] = {
    state: (event, STEP_OF[event]) for event, state in STATE_AFTER.items() if state in TERMINAL
}
"""For each terminal state, its event and the step that leaves it."""

EDGES: frozenset[tuple[State, State]] = frozenset(
    [
        *itertools.pairwise(PATH),
        (State.AWAITING_APPROVAL, State.APPROVAL_TIMEOUT),
        *((state, end) for state in PATH[: PATH.index(State.SHIPPED)] for end in (State.FAILED, State.CANCELLED)),
    ]
)
"""Legal edges. Once a parcel is on its way (SHIPPED) an order can only be completed."""


@dataclass(frozen=True)
class Item:
    """sku, quantity >= 1, unit price in cents >= 0."""

    sku: str
    quantity: int = 1
    price_cents: int = 0


@dataclass(frozen=True)
class Address:
    line1: str
    city: str = ""
    state: str = ""
    zip: str = ""
    country: str = ""


@dataclass(frozen=True)
class Order:
    order_id: str
    payment_id: str
    address: Address | None = None
    items: tuple[Item, ...] = ()

    @property
    def total_cents(self) -> int:
        return sum(item.quantity * item.price_cents for item in self.items)

    def fingerprint(self) -> str:
        """SHA-256 of the normalised order. Two starts with the same order id are the same start if these are equal."""
        body = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(body.encode()).hexdigest()


def workflow_id(order_id: str) -> str:
    return f"order-{order_id}"


def shipping_workflow_id(order_id: str, round_: int) -> str:
    return f"shipping-{order_id}-{round_}"


def charge_key(payment_id: str) -> str:
    return f"charge:{payment_id}"


def dispatch_key(order_id: str) -> str:
    return f"dispatch:{order_id}"


def event_id(*cause: object) -> uuid.UUID:
    """The id of the event that follows from `cause`. The same cause always gives the same id, and so one row."""
    return uuid.uuid5(_NAMESPACE, "\x1f".join(str(part) for part in cause))


@dataclass(frozen=True)
class TryId:
    """Identity of one call of a step's outside system. `lane` is the number of the hedged lane, from 0."""

    order_id: str
    step: str
    round: int
    execution: int
    try_: int
    lane: int = 0

    @property
    def ordinal(self) -> int:
        """The number of this call in its lane, from 1. One execution makes many tries, or many executions make one
        each.

        It is not read from the ledger, so two calls may have the same ordinal after an execution was lost.
        """
        return self.execution + self.try_ - 1

    @property
    def event_id(self) -> uuid.UUID:
        return event_id("try", self.order_id, self.step, self.round, self.execution, self.lane, self.try_)
