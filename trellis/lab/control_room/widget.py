"""The control room: orders started, watched and steered, faults turned up, and one order's tries on a time axis.

One widget of our own (its page is in `page/`; nothing is fetched at run time). Data flows one way:
traits carry what is shown, from Python to the page, and are set on the engine's thread alone, so that they reach the
page while a cell keeps the kernel busy. Messages carry what a person asks for, from the page to Python; their handler
only hands work to the engine. Each message has a number `n` of the page's own, and gets exactly one answer with it: a
trait that is set to an equal value is not sent, so it could not answer the same mistake twice. Forms are HTML and not
ipywidgets, which cannot tie an error's sentence to its field for a screen reader.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anywidget
import traitlets as t

from trellis.db.board import COUNTED, BoardReader, View
from trellis.errors import BadInput, TrellisError
from trellis.faults import KINDS, FaultPlan
from trellis.insight.colours import OUTCOMES, STATES, text_on
from trellis.lab.control_room import assets, rows
from trellis.lab.control_room.feed import Feed
from trellis.lab.engine import Engine
from trellis.model import OUTSIDE_STEPS, REPLY_CAN_BE_LOST, State
from trellis.parsing import parse_address, parse_item, parse_order
from trellis.policies import PRESETS, AtWindowEnd, Policy, preset

AT_ONCE = 10
MOST_ORDERS = 200
PAGE = 25
VERDICTS = 8
BEAT = 2.0
"""Seconds between two signs of life. None for three times as long, and the page says that the kernel is gone."""

Answer = dict[str, Any]


class ControlRoom(anywidget.AnyWidget):
    """See the module. Closed with `close()`, or when its session stops."""

    _esm = assets.script()
    _css = assets.style()

    setup = t.Dict().tag(sync=True)
    page = t.Dict().tag(sync=True)
    changes = t.Dict().tag(sync=True)
    counts = t.Dict().tag(sync=True)
    link = t.Dict().tag(sync=True)
    timeline = t.Dict().tag(sync=True)
    faults = t.Dict().tag(sync=True)
    verdicts: t.List[Any] = t.List().tag(sync=True)
    beat = t.Int().tag(sync=True)
    troubles: t.List[Any] = t.List().tag(sync=True)

    def __init__(self, engine: Engine, *, size: int = PAGE) -> None:
        super().__init__(
            setup=_setup(engine.desk.default_policy().name),
            link={"live": False, "text": "Connecting …"},
            troubles=list(engine.log),
        )
        self._engine = engine
        desk = engine.desk
        assert desk.stack is not None
        reader = BoardReader(engine.pool)
        self._feed = Feed(desk, reader, desk.stack.database_url, lambda: engine.watch, self._show, size)
        # A second click can be under way before the page hears that the first one counted.
        self._busy: set[tuple[str, str]] = set()
        self._number = 0
        self._moved: dict[tuple[str | None, str], float] = {}
        self._forcing = asyncio.Lock()
        self.on_msg(self._heard)
        engine.log.listeners.add(self._logged)
        self._following = engine.submit(self._follow())

    @property
    def closed(self) -> bool:
        return self._following.done()

    def close(self) -> None:
        """Stop following, and take the widget off the page."""
        self._following.cancel()
        self._engine.log.listeners.discard(self._logged)
        super().close()

    async def _follow(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            await self._feed.run()
        finally:
            beating.cancel()
            self._engine.log.listeners.discard(self._logged)
            self.link = {"live": False, "text": ENDED, "ended": True}

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self.beat += 1

    def _show(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def _logged(self) -> None:
        """Called on whichever thread logged; the trait is set on the engine's."""
        if self._engine.running:
            self._engine.call_soon(self._show_log)

    def _show_log(self) -> None:
        self.troubles = list(self._engine.log)

    # --- what the page asks for ----------------------------------------------------------------------------

    def _heard(self, _: object, message: dict[str, Any], __: object) -> None:
        kind = message.get("kind")
        kinds: dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, Answer | None]]] = {
            "hello": self._hello, "view": self._look, "turn": self._turn, "focus": self._focus,
            "ask": self._ask, "start": self._start, "fault": self._turn_fault, "weather": self._weather,
            "clear log": self._clear_log,
        }  # fmt: skip
        work = kinds.get(str(kind))
        if work is None:
            return
        try:
            self._engine.submit(self._answered(work, message))
        except TrellisError as stopped:
            self.link = {"live": False, "text": str(stopped), "ended": True}
            self.send({"answer": message.get("n")})

    async def _answered(
        self, work: Callable[[dict[str, Any]], Coroutine[Any, Any, Answer | None]], message: dict[str, Any]
    ) -> None:
        """What goes wrong in answering the page is shown there; there is no cell that could show it."""
        answer: Answer | None = None
        try:
            answer = await work(message)
        except TrellisError as error:
            self._say("", False, str(error))
        except Exception as error:
            self._say("", False, f"That did not work: {error}")
        finally:
            self.send({"answer": message.get("n"), **(answer or {})})

    async def _hello(self, _: dict[str, Any]) -> None:
        # A page that was loaded again has the last frame only.
        self._feed.tell_page()

    async def _look(self, message: dict[str, Any]) -> None:
        states = tuple(state for state in message.get("states", ()) if state in State.__members__)
        await self._feed.look(View(states, str(message.get("prefix", ""))[:64].strip(), self._feed.size))

    async def _turn(self, message: dict[str, Any]) -> None:
        await self._feed.turn(bool(message.get("forward")))

    async def _focus(self, message: dict[str, Any]) -> None:
        await self._feed.focus(message.get("id"))

    async def _clear_log(self, _: dict[str, Any]) -> None:
        self._engine.log.clear()
        self._show_log()

    # --- requests ------------------------------------------------------------------------------------------

    async def _ask(self, message: dict[str, Any]) -> Answer:
        """Approve, cancel or change the address of the selected orders; each verdict is shown with its reason.

        Answers {error}: what is wrong with the new address, or None.
        """
        name = str(message.get("name"))
        desk = self._engine.desk
        ids = [id_ for id_ in message.get("ids", ()) if (id_, name) not in self._busy]
        if name == "update_address":
            # Judged once for all of them, before anybody is asked.
            try:
                address = parse_address(message.get("address"))
            except BadInput as error:
                return {"error": str(error)}
        requests: dict[str, Callable[[str], Coroutine[Any, Any, Any]]] = {
            "approve": desk.approve,
            "cancel": lambda id_: desk.cancel(id_, "from the control room"),
            "update_address": lambda id_: desk.update_address(id_, address),
        }
        if name not in requests or not ids:
            return {"error": None}
        words = {"approve": "Approve", "cancel": "Cancel", "update_address": "Change address"}[name]
        # Before anything is awaited: the second click of two is handled right after this.
        self._busy |= {(id_, name) for id_ in ids}
        number = self._say(words, None, f"asking {_many(len(ids))} …")
        lanes, refused, pending = asyncio.Semaphore(AT_ONCE), [], 0

        async def one(id_: str) -> None:
            nonlocal pending
            try:
                async with lanes:
                    receipt = await requests[name](id_)
                    pending += receipt.verdict == "pending"
            except TrellisError as error:
                refused.append(str(error))
            except Exception as error:
                refused.append(f"Order {id_}: {error}")
            finally:
                self._busy.discard((id_, name))

        await asyncio.gather(*map(one, ids))
        accepted = len(ids) - len(refused) - pending
        said = [f"accepted ({ids[0] if len(ids) == 1 else _many(accepted)})"] if accepted else []
        if pending:
            said.append(f"pending: no worker has judged {_many(pending)} yet")
        said += refused[:3] + [f"… and {len(refused) - 3} more refusals"] * (len(refused) > 3)
        self._say(words, not refused, " · ".join(said), number)
        return {"error": None}

    def _say(self, words: str, ok: bool | None, text: str, number: int | None = None) -> int:
        """A line of verdicts, or a new text for one (`ok` None: not known yet)."""
        if number is None:
            self._number += 1
            number = self._number
        line = {"id": number, "at": int(time.time() * 1000), "name": words, "ok": ok, "text": text}
        self.verdicts = [line, *(one for one in self.verdicts if one["id"] != number)][:VERDICTS]
        return number

    # --- new orders ----------------------------------------------------------------------------------------

    async def _start(self, message: dict[str, Any]) -> Answer:
        """Start what the form describes; nonsense is a sentence beside its field, and starts nothing.

        Answers {errors: {field: sentence}, done: sentence, started: the id if it was one order}.
        """
        parts, errors = _read_form(message)
        if errors:
            return {"errors": errors, "done": "", "started": None}
        items, address, policy, count = parts
        lanes, started, failed = asyncio.Semaphore(AT_ONCE), [], []

        async def one() -> None:
            id_ = f"order-{uuid.uuid4().hex[:8]}"
            async with lanes:
                try:
                    await self._engine.desk.start(parse_order(id_, f"pay-{id_}", items, address), policy)
                    self._feed.expect(id_)
                    started.append(id_)
                except TrellisError as error:
                    failed.append(str(error))

        await asyncio.gather(*(one() for _ in range(count)))
        errors = {"form": f"{_many(len(failed))} could not be started. {failed[0]}"} if failed else {}
        done = f"Started {started[0] if len(started) == 1 else _many(len(started))}." if started else ""
        return {"errors": errors, "done": done, "started": started[0] if len(started) == 1 else None}

    # --- faults --------------------------------------------------------------------------------------------

    async def _turn_fault(self, message: dict[str, Any]) -> None:
        name, value = str(message.get("name")), message.get("value")
        if name not in KINDS or not isinstance(value, int | float):
            return
        self._moved[message.get("step"), name] = float(value)
        async with self._forcing:
            # Only the latest place of each slider counts, on the plan that the ledger has by now.
            moved, self._moved = self._moved, {}
            plan = (await self._engine.watch.refresh()).plan
            for (step, slider), place in moved.items():
                plan = plan.moved(step, slider, place)
            if moved:
                await self._force(plan)

    async def _weather(self, message: dict[str, Any]) -> None:
        plan = FaultPlan.parse(str(message.get("name")))
        self._moved.clear()
        async with self._forcing:
            await self._force(plan)

    async def _force(self, plan: FaultPlan) -> None:
        await self._engine.desk.set_faults(plan)
        await self._engine.watch.refresh()
        self._feed.tell_faults()


ENDED = "The lab has stopped. Run lab.start() and open the control room again."

_Parts = tuple[list[dict[str, Any]], object, Policy, int]


def _read_form(message: dict[str, Any]) -> tuple[_Parts, dict[str, str]]:
    """What the form says, and a sentence for each field that cannot be meant."""
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
    count = _whole(message.get("count"))
    if not isinstance(count, int) or not 1 <= count <= MOST_ORDERS:
        errors["count"] = f"The number of orders must be a whole number from 1 to {MOST_ORDERS}."
    if not errors:
        read("form", lambda: parse_order("check", "check", items, address))
    return (items, address, policy, count if isinstance(count, int) else 0), errors


def _item(raw: dict[str, Any]) -> dict[str, Any]:
    return {"sku": raw.get("sku", ""), "quantity": _whole(raw.get("quantity")), "price": raw.get("price") or "0"}


def _whole(text: object) -> object:
    """A whole number that was typed, or what was typed instead."""
    try:
        return int(str(text).strip())
    except ValueError:
        return text


def _many(number: int) -> str:
    return f"{number} order" + "s" * (number != 1)


def _setup(default: str) -> dict[str, Any]:
    """What the page must know once: words, colours, presets."""
    paint = {name: [colour, text_on(colour)] for name, colour in {**STATES, **OUTCOMES}.items()}
    return {
        "path": rows.PATH, "states": list(State), "colours": paint, "steps": list(OUTSIDE_STEPS),
        "reply_can_be_lost": sorted(REPLY_CAN_BE_LOST), "counted": COUNTED, "most": MOST_ORDERS, "default": default,
        "terminal": [state for state in State if state.terminal],
        "presets": {name: _in_words(policy) for name, policy in PRESETS.items()},
    }  # fmt: skip


def _in_words(policy: Policy) -> str:
    end = "approved by itself" if policy.at_window_end is AtWindowEnd.APPROVE else "APPROVAL_TIMEOUT"
    return (
        f"review {policy.review_window:g} s, then {end}; a try may take {policy.retry.try_timeout:g} s, "
        f"retried by the {policy.retry.placement}; budget {policy.budget:g} s"
    )
