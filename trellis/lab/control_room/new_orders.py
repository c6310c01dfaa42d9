"""The form for new orders: its choices, and how its fields are read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from trellis.errors import BadInput, TrellisError
from trellis.lab.control_room.board import Answer, Handler, Message, Panel
from trellis.lab.control_room.panels import AT_ONCE
from trellis.model import Address, Step
from trellis.parsing import parse_address, parse_item, parse_order
from trellis.policies import PRESETS, AtWindowEnd, Policy, Retry, preset, tuned

MOST_ORDERS = 200


class NewOrders(Panel):
    name = "new_orders"

    def options(self) -> dict[str, Any]:
        return {
            "policies": {name: in_words(policy) for name, policy in PRESETS.items()},
            "dispatch_tries": {name: policy.retry_of(Step.DISPATCH).max_tries for name, policy in PRESETS.items()},
            "default": self.room.engine.desk.default_policy().name,
        }

    def handlers(self) -> Mapping[str, Handler]:
        return {"start": self._start}

    async def _start(self, message: Message) -> Answer:
        """Start what the form describes. A field that makes no sense gets a sentence, and nothing is started.

        Answers {errors: {field: sentence}, done: sentence, started: the id if it was one order}.
        """
        form, errors = read_form(message)
        if form is None:
            return {"errors": errors, "done": "", "started": None}
        lanes, started, failed = asyncio.Semaphore(AT_ONCE), [], []

        async def one() -> None:
            id_ = f"order-{uuid.uuid4().hex[:8]}"
            order = parse_order(id_, f"pay-{id_}", form.items, form.address)
            async with lanes:
                try:
                    await self.room.engine.desk.start(order, form.policy)
                    self.room.feed.show_starting(id_)
                    started.append(id_)
                except TrellisError as error:
                    failed.append(str(error))

        await asyncio.gather(*(one() for _ in range(form.count)))
        orders = self.room.board.words.counted
        errors = {"form": f"{orders(len(failed))} could not be started. {failed[0]}"} if failed else {}
        done = f"Started {started[0] if len(started) == 1 else orders(len(started))}." if started else ""
        return {"errors": errors, "done": done, "started": started[0] if len(started) == 1 else None}


@dataclass(frozen=True)
class Form:
    items: list[dict[str, Any]]
    address: Address
    policy: Policy
    count: int


def read_form(message: Message) -> tuple[Form | None, dict[str, str]]:
    """The form's values, or a sentence for each field that makes no sense."""
    errors: dict[str, str] = {}

    def read(field: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except TrellisError as error:
            errors[field] = str(error)

    items = [_item(raw) for raw in message.get("items", ())]
    for index, item in enumerate(items):
        read(f"item {index}", partial(parse_item, item))
    address = read("address", lambda: parse_address(message.get("address")))
    policy = read("policy", lambda: preset(str(message.get("policy"))))
    if policy is not None:
        policy = read("dispatch_tries", lambda: _with_dispatch_tries(policy, message.get("dispatch_tries")))
    count = read("count", lambda: _count(message.get("count")))
    if not errors:
        read("form", lambda: parse_order("check", "check", items, address))
    return (None if errors else Form(items, address, policy, count)), errors


def _with_dispatch_tries(policy: Policy, text: object) -> Policy:
    """The policy with another limit for the tries of a dispatch in one round. An empty field changes nothing."""
    tries = _whole(text or "")
    if tries in ("", policy.retry_of(Step.DISPATCH).max_tries):
        return policy
    if not isinstance(tries, int) or not 0 <= tries <= 1000:
        raise BadInput("The tries of a dispatch must be a whole number from 1 to 1,000, or 0 for no limit.")
    return tuned(policy, steps={Step.DISPATCH: {"max_tries": tries}})


def _item(raw: dict[str, Any]) -> dict[str, Any]:
    return {"sku": raw.get("sku", ""), "quantity": _whole(raw.get("quantity")), "price": raw.get("price") or "0"}


def _count(text: object) -> int:
    count = _whole(text)
    if not isinstance(count, int) or not 1 <= count <= MOST_ORDERS:
        raise BadInput(f"The number of orders must be a whole number from 1 to {MOST_ORDERS}.")
    return count


def _whole(text: object) -> object:
    """The whole number that was typed; other text is returned as it is."""
    try:
        return int(str(text).strip())
    except ValueError:
        return text


def in_words(policy: Policy) -> str:
    """A policy in a few words: the review, the general retry rule, and the rules of single steps."""
    end = "approved by itself" if policy.at_window_end is AtWindowEnd.APPROVE else "APPROVAL_TIMEOUT"
    parts = [
        f"review {policy.review_window:g} s, then {end}",
        f"a try may take {policy.retry.try_timeout:g} s, retried by the {policy.retry.placement}",
        *(f"{step}: {_own_rule(rule, policy.retry)}" for step, rule in policy.steps.items() if rule != policy.retry),
        f"{policy.dispatch_retries + 1} rounds of shipping at most",
        f"budget {policy.budget:g} s",
    ]
    return "; ".join(parts)


def _own_rule(rule: Retry, general: Retry) -> str:
    """How a step's own rule differs from the general one."""
    parts = [f"a try may take {rule.try_timeout:g} s"] if rule.try_timeout != general.try_timeout else []
    if rule.max_tries != general.max_tries:
        parts.append(f"at most {rule.max_tries} tries" if rule.max_tries else "tries without limit")
    return ", ".join(parts) or "a backoff of its own"
