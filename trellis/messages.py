"""The messages between desk, workflows and activities. Each message is one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from trellis.model import Address, Order, State
from trellis.policies import Policy, Retry

ORDER_WORKFLOW = "OrderWorkflow"
SHIPPING_WORKFLOW = "ShippingWorkflow"

OUR_WORKFLOWS = f"WorkflowType IN ('{ORDER_WORKFLOW}', '{SHIPPING_WORKFLOW}')"
"""The visibility query that finds the workflows of all orders, and no others."""

TASK_TIMEOUT = timedelta(seconds=4)
"""How long a worker may take for one workflow task of an order. A task takes some milliseconds, and the SDK calls two
seconds a deadlock. If a worker dies with a task, its order stands still for so long: ten seconds by default."""


def as_queried(when: datetime) -> str:
    """A time as a visibility query takes it."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class OrderInput:
    """The order workflow's one input. It holds the name of the queue, so that a replay needs no settings."""

    order: Order
    policy: Policy
    shipping_queue: str = "shipping-tq"
    search_attributes: bool = False


@dataclass(frozen=True)
class ShippingInput:
    """One round of shipping. `steps` holds the retry rules of single steps, as `Policy.steps` does."""

    order: Order
    round: int
    retry: Retry
    parent_workflow_id: str
    steps: dict[str, Retry] = field(default_factory=dict)

    def retry_of(self, step: str) -> Retry:
        return self.steps.get(step, self.retry)


@dataclass(frozen=True)
class StepInput:
    """What every outside step is given."""

    order: Order
    retry: Retry
    round: int = 0


@dataclass(frozen=True)
class Dispatched:
    tracking: str


@dataclass(frozen=True)
class Approve:
    request_id: str = ""
    by: str = "request"


@dataclass(frozen=True)
class Cancel:
    request_id: str = ""
    reason: str = ""


@dataclass(frozen=True)
class UpdateAddress:
    request_id: str = ""
    address: Address = field(default_factory=lambda: Address(""))


@dataclass(frozen=True)
class Verdict:
    accepted: bool
    reason: str = ""


@dataclass(frozen=True)
class Approval:
    """Ledger-only: note the approval, before anything is charged."""

    order_id: str
    request_id: str
    by: str


@dataclass(frozen=True)
class AddressChange:
    order_id: str
    request_id: str
    address: Address


@dataclass(frozen=True)
class Refusal:
    """A request that was refused, to be written down."""

    order_id: str
    request_id: str
    request: str
    reason: str


@dataclass(frozen=True)
class Fence:
    """Close the order's row so that no dispatch can claim it, unless one has claimed it already."""

    input: OrderInput
    request_id: str = ""
    ending: str = State.FAILED
    reason: str = ""


@dataclass(frozen=True)
class FenceAnswer:
    """`closed`: no dispatch can claim the order any more. `claimed`: a dispatch had claimed it before.

    `ending` and `reason` come from the first request or failure that closed the order. It may be another one than this.
    """

    closed: bool
    claimed: bool
    ending: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Unwind:
    """Outside step `refund`: void the parcel if a dispatch claimed the order, then void the charge."""

    order: Order
    retry: Retry
    reason: str
    claimed: bool
    round: int = 0
    ending: str = State.FAILED


@dataclass(frozen=True)
class Unwound:
    """`tracking` is set if the parcel had been sent already. The order must then be completed."""

    refunded: bool
    tracking: str | None = None


@dataclass(frozen=True)
class Ending:
    """Ledger-only: the terminal state, its event and the error that led to it."""

    order_id: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class DispatchFailure:
    order_id: str
    round: int
    reason: str


@dataclass(frozen=True)
class OrderResult:
    order_id: str
    state: str
    tracking: str | None = None


@dataclass(frozen=True)
class Status:
    """What the order workflow knows by itself. Times are UTC in ISO 8601. It knows no attempts: the ledger does."""

    order_id: str
    state: str
    step: str | None
    review_deadline: str | None
    last_error: str | None
    can_cancel: bool
    can_update_address: bool
