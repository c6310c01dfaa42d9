"""The ten mistakes: what is changed, under which scenario it shows, and what the audit says of it."""

from __future__ import annotations

from dataclasses import dataclass

from trellis.edited import Edit


@dataclass(frozen=True)
class Bug:
    """A planted mistake.

    scenario: what its orders go through (scenarios.py). seed: of the faults, the order ids and the pauses.
    invariants: those that it may break. shows: the sentence that names it begins so (a regular expression).
    """

    name: str
    says: str
    edits: tuple[Edit, ...]
    scenario: str
    invariants: frozenset[int]
    shows: str
    seed: int = 1


BUGS = (
    Bug(
        "key-with-attempt-number",
        "the idempotency key of a charge contains the number of the attempt",
        (
            Edit(
                "trellis/activities/steps.py",
                "await self._provider.charge(charge_key(order.payment_id), ",
                'await self._provider.charge(f"{charge_key(order.payment_id)}:{activity.info().attempt}", ',
            ),
        ),
        "reply-lost",
        frozenset({1, 2, 4}),
        r"charged 2 times at the provider",
    ),
    Bug(
        "fence-skipped",
        "an order is undone without asking whether a dispatch has claimed it",
        (
            Edit(
                "trellis/activities/ledger_only.py",
                """await self._ledger.close(
            given.input.order.order_id, State(given.ending), given.reason, given.request_id
        )""",
                "FenceAnswer(True, False, given.ending, given.reason)",
            ),
        ),
        "budget-ends-after-the-claim",
        frozenset({2, 3}),
        r"shipped and refunded",
    ),
    Bug(
        "refund-without-tombstone",
        "voiding a charge leaves no tombstone for a charge that is still on its way",
        (
            Edit(
                "sql/002_provider.sql",
                """    INSERT INTO provider.voids VALUES (p_key, p_order) ON CONFLICT DO NOTHING;
    INSERT INTO provider.refunds""",
                "    INSERT INTO provider.refunds",
            ),
        ),
        "charge-arrives-late",
        frozenset({2, 4}),
        r"nothing shipped, yet the provider kept",
    ),
    Bug(
        "event-outside-transaction",
        "a change of state and its event are two transactions",
        (
            Edit(
                "trellis/db/ledger.py",
                """        await self._write(
            f"move_order(%s, %s, '{{SHIPPING}}', 'SHIPPED', 'ORDER_SHIPPED', {_TRY}, %s)",
            order_id, tried,
            event_id(order_id, EventType.ORDER_SHIPPED), order_id, *_row_of(tried), Jsonb(_payload_of(tried)),
        )""",
                """        if not await self._row(
            "UPDATE orders SET state = 'SHIPPED' WHERE id = %s AND state = 'SHIPPING' RETURNING id", order_id
        ):
            return
        await self._write(
            f"add_event(%s, %s, 'ORDER_SHIPPED', {_TRY}, %s)",
            order_id, tried,
            event_id(order_id, EventType.ORDER_SHIPPED), order_id, *_row_of(tried), Jsonb(_payload_of(tried)),
        )""",
            ),
        ),
        "connection-cut-before-an-event",
        frozenset({5}),
        r"went from SHIPPING to COMPLETED",
    ),
    Bug(
        "claim-after-close",
        "a dispatch may claim an order that is being undone",
        (
            Edit(
                "sql/001_ledger.sql",
                """    updated_at   timestamptz NOT NULL DEFAULT now(),
    -- The fence: what can no longer be undone and what is being undone exclude one another.
    -- A claimed order is closed only after the carrier has voided the parcel, which clears the claim.
    CONSTRAINT fence CHECK (claimed_at IS NULL OR closing_at IS NULL)
""",
                "    updated_at   timestamptz NOT NULL DEFAULT now()\n",
            ),
            Edit(
                "sql/003_ledger_functions.sql",
                "WHERE id = p_order AND closing_at IS NULL "
                "AND state IN ('PAYMENT_CHARGED', 'SHIPPING', 'SHIPPED', 'COMPLETED')",
                "WHERE id = p_order",
            ),
        ),
        "frozen-in-the-middle-of-a-dispatch",
        frozenset({2, 3}),
        r"shipped and refunded",
    ),
    Bug(
        "cancel-after-claim",
        "a cancel is accepted although a dispatch has claimed the order",
        (Edit("sql/004_endings.sql", "IF NOT claimed OR p_released THEN", "IF true THEN"),),
        "cancelled-after-the-claim",
        frozenset({2, 3}),
        r"shipped and refunded",
    ),
    Bug(
        "address-of-the-request",
        "a parcel gets the address that the order began with, and not the one that the claim fixed",
        (
            Edit(
                "trellis/activities/steps.py",
                "self._provider.dispatch(dispatch_key(order_id), order_id, address)",
                "self._provider.dispatch(dispatch_key(order_id), order_id, "
                "vars(given.order.address) if given.order.address else address)",
            ),
        ),
        "address-changed-in-review",
        frozenset({3}),
        r"the parcel went to another address",
    ),
    Bug(
        "pays-back-before-it-voids",
        "a compensation returns the money before it asks whether the parcel is gone",
        (
            Edit(
                "trellis/activities/undo.py",
                "    if claimed:\n        tracking = await provider.void_parcel(",
                "    if claimed:\n"
                "        await provider.void_charge(charge_key(order.payment_id), order.order_id)\n"
                "        tracking = await provider.void_parcel(",
            ),
        ),
        "dispatch-fails-although-the-parcel-left",
        frozenset({2, 3, 4}),
        r"shipped and refunded",
    ),
    Bug(
        "heartbeat-stopped",
        "a long step stops sending heartbeats, so Temporal gives it to a worker again while it runs",
        (
            Edit(
                "trellis/retrying/loop.py",
                "    while True:\n        await asyncio.sleep(BEAT_SECONDS)",
                "    for _ in range(2):\n        await asyncio.sleep(BEAT_SECONDS)",
            ),
        ),
        "a-step-takes-long",
        frozenset({11}),
        r"charge went on for [0-9.]+ s after Temporal had given it out again",
    ),
    Bug(
        "try-after-refusal",
        "a call that was refused for good is made again",
        (
            Edit(
                "trellis/retrying/loop.py",
                "            except Stop:\n                raise\n            except Exception as failure:\n"
                "                # Any exception",
                "            except Exception as failure:\n                # Any exception",
            ),
            Edit("trellis/retrying/loop.py", "    return isinstance(failure, Stop)", "    return False"),
        ),
        "cancelled-while-charging",
        frozenset({11}),
        r"charge was tried again after it was refused for good",
    ),
)
SHORT = ("pays-back-before-it-voids", "address-of-the-request", "try-after-refusal")
"""The mistakes of the test suite's short form: quick scenarios, one of the provider, one of the claim, one of tries."""


def bug_of(name: str) -> Bug:
    """The mistake of this name. Raises KeyError."""
    return {bug.name: bug for bug in BUGS}[name]
