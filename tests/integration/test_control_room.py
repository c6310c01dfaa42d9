"""The control room without a browser: messages as the page sends them, and traits as it gets them."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.integration.rooms import FORM, Seen, asked, eventually, say
from trellis.faults import FaultPlan, Mix
from trellis.lab.control_room.panels import Lines
from trellis.lab.control_room.widget import BEAT, ControlRoom
from trellis.lab.session import Session
from trellis.policies import preset, tuned


def test_an_order_from_the_form_appears_is_approved_and_completes_on_the_board(room: ControlRoom) -> None:
    """Started, seen with its review running out, approved by message, followed to its end: nothing is refreshed."""
    seen = Seen(room)
    order = asked(room, "start", **FORM)["started"]
    assert eventually(lambda: seen.state(order) == "AWAITING_APPROVAL")
    line = seen.lines[order]
    assert line["step"] == "review"
    assert 0 < line["deadline"] - time.time() * 1000 < 301_000
    assert line["can_approve"]
    say(room, "focus", id=order)
    say(room, "ask", name="approve", ids=[order], n=1)
    say(room, "ask", name="approve", ids=[order], n=2)
    assert eventually(lambda: seen.state(order) == "COMPLETED")
    assert seen.lines[order]["step"] is None
    assert [verdict["ok"] for verdict in room.verdicts] == [True], "the second click was no second request"
    assert eventually(lambda: len(room.timeline["bars"]) == 6)
    assert {bar["outcome"] for bar in room.timeline["bars"]} == {"succeeded"}
    assert room.timeline["link"].endswith(f"/workflows/order-{order}")
    say(room, "ask", name="cancel", ids=[order], n=3)
    assert eventually(lambda: room.verdicts[0]["ok"] is False)
    assert "COMPLETED" in room.verdicts[0]["text"]


def test_running_the_cell_again_gives_the_same_room(session: Session, room: ControlRoom) -> None:
    """A listener and a connection for each run of a cell would add up; a closed room is replaced."""
    assert session.control_room() is room
    room.close()
    assert eventually(lambda: room.closed)
    fresh = session.control_room()
    assert fresh is not room
    assert eventually(lambda: fresh.link["live"])
    fresh.close()
    assert eventually(lambda: fresh.closed)


def test_many_orders_are_steered_at_once_and_each_refusal_has_its_reason(session: Session, room: ControlRoom) -> None:
    """Three orders accept the new address and one that has ended does not. One answer says both."""
    seen = Seen(room)
    over = session.start_order(policy="patient")
    assert eventually(lambda: session.status(over)["state"] == "AWAITING_APPROVAL")
    session.cancel(over)
    say(room, "start", **{**FORM, "count": "3"})
    assert eventually(lambda: sum(line["state"] == "AWAITING_APPROVAL" for line in seen.lines.values()) >= 3)
    ids = [line["id"] for line in seen.lines.values() if line["state"] == "AWAITING_APPROVAL"][:3]
    assert eventually(lambda: seen.state(over) == "CANCELLED")
    say(room, "ask", name="update_address", ids=[*ids, over], n=1, text="2 New Road")
    assert eventually(lambda: room.verdicts and room.verdicts[0]["ok"] is False)
    assert "accepted (3 orders)" in room.verdicts[0]["text"]
    assert f"Order {over} refused update_address: the order is CANCELLED" in room.verdicts[0]["text"]
    assert eventually(lambda: all(seen.lines[id_]["address"] == "2 New Road" for id_ in ids))
    say(room, "ask", name="cancel", ids=ids, n=2)
    assert eventually(lambda: all(seen.state(id_) == "CANCELLED" for id_ in ids))


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        ({"items": [{"sku": "", "quantity": "1", "price": "1"}]}, "item 0", "must have a sku"),
        ({"items": [{"sku": "a", "quantity": "1.5", "price": "1"}]}, "item 0", "whole number"),
        ({"items": [{"sku": "a", "quantity": "1", "price": "NaN"}]}, "item 0", "must be a number"),
        ({"items": [{"sku": "a", "quantity": "1000000", "price": "99999999"}]}, "form", "total must be at most"),
        ({"address": {"line1": " "}}, "address", "must have a line1"),
        ({"policy": "hasty"}, "policy", "no policy 'hasty'"),
        ({"count": "0"}, "count", "from 1 to 200"),
        ({"count": "many"}, "count", "from 1 to 200"),
    ],
)
def test_nonsense_in_the_form_is_a_sentence_beside_its_field_and_starts_nothing(
    session: Session, room: ControlRoom, change: dict[str, object], field: str, sentence: str
) -> None:
    """The field that is wrong is named, and no order comes into being."""
    before = len(session.events())
    # The same mistake a second time is answered a second time.
    for _ in range(2):
        errors = asked(room, "start", **{**FORM, **change})["errors"]
        assert sentence in errors[field]
        assert list(errors) == [field]
    assert len(session.events()) == before


def test_sliders_change_the_plan_that_running_orders_follow(session: Session, room: ControlRoom) -> None:
    """A charge that hangs for ever goes on when its slider is moved back. The timeline has shown the attempts."""
    say(room, "fault", step="charge", name="hang", value=1.0)
    assert eventually(lambda: room.faults.get("steps", {}).get("charge", {}).get("hang") == 1.0)
    order = session.start_order(policy="swift")
    say(room, "focus", id=order)
    session.approve(order)
    assert eventually(lambda: any(bar["outcome"] == "timed out" for bar in room.timeline.get("bars", ())))
    say(room, "preset faults", name="calm")
    assert eventually(lambda: room.faults["steps"] == {})
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"


def test_the_timeline_tells_which_round_of_shipping_is_under_way(session: Session, room: ControlRoom) -> None:
    """An attempt that has not ended is in no event yet: the page draws it on the line of this round."""
    session.faults("dispatch: error | ok")
    order = session.start_order(policy=tuned(preset("swift"), steps={"dispatch": {"max_tries": 1}}))
    say(room, "focus", id=order)
    assert eventually(lambda: room.timeline.get("id") == order and room.timeline["round"] == 1)
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"
    session.faults("calm")

    def rounds() -> set[int]:
        return {bar["round"] for bar in room.timeline["bars"] if bar["step"] == "dispatch"}

    assert eventually(lambda: rounds() == {1, 2})
    assert room.timeline["round"] == 2
    assert set(room.setup["options"]["attempts"]["per_round"]) == {"prepare", "dispatch"}


def test_a_change_by_somebody_else_shows_on_the_sliders(session: Session, room: ControlRoom) -> None:
    """The command line or another notebook may set faults; the board tells the plan in force."""
    session.faults(FaultPlan(Mix(error=0.25)))
    assert eventually(lambda: room.faults["mix"]["error"] == 0.25)
    session.faults("calm")


def test_sliders_moved_at_once_all_count_and_the_last_place_of_each_wins(session: Session, room: ControlRoom) -> None:
    """Fifty messages without a pause: each slider keeps its last position, whatever the others send."""
    say(room, "preset faults", name="calm")
    for n in range(1, 26):
        say(room, "fault", step=None, name="error", value=n / 100)
        say(room, "fault", step="charge", name="latency", value=n / 10)
    asked(room, "fault", step=None, name="hang", value=0.3)
    plan = session.do(session.desk.faults()).plan
    assert plan.mix == Mix(error=0.25, hang=0.3)
    assert plan.steps["charge"].latency == 2.5
    asked(room, "preset faults", name="calm")
    assert session.do(session.desk.faults()).plan == FaultPlan.calm()


def test_a_wrong_address_is_answered_each_time_and_asks_nobody(session: Session, room: ControlRoom) -> None:
    """The page's buttons wait for an answer; the same mistake, or an order that is being asked already, has one too."""
    order = session.start_order(policy="patient")
    for _ in range(2):
        answer = asked(room, "ask", name="update_address", ids=[order], text="")
        assert "must have a line1" in answer["error"]
    assert not room.verdicts
    under_way = next(panel for panel in room._panels if isinstance(panel, Lines))._under_way
    under_way.add((order, "cancel"))
    assert asked(room, "ask", name="cancel", ids=[order])["error"] is None
    under_way.clear()
    assert asked(room, "ask", name="cancel", ids=[order])["error"] is None
    assert room.verdicts[0]["ok"]


@pytest.mark.slow
def test_the_room_gives_signs_of_life_while_the_kernel_is_busy(room: ControlRoom) -> None:
    """Without them a page could not tell a kernel that is gone from one at work."""
    before = room.beat
    time.sleep(3 * BEAT)
    assert room.beat >= before + 2


def test_what_does_not_fit_under_one_is_taken_from_the_other_sliders() -> None:
    """Probabilities never add up to more than 1, whatever is moved; a script ends, other steps are left alone."""
    plan = FaultPlan.canonical().moved(None, "error", 0.8)
    assert plan.mix.error == 0.8
    assert plan.mix.hang == pytest.approx(0.2)
    plan = plan.moved("charge", "reply_lost", 1.0)
    assert plan.steps["charge"] == Mix(reply_lost=1.0)
    assert plan.mix.error == 0.8
    assert FaultPlan.scripted("charge: error").moved(None, "latency", 1.5).script == ""


def test_filter_search_and_pages_are_walked_by_key(session: Session) -> None:
    """Pages of three hold every order once, newest first; a state and the beginning of an id narrow them."""
    room = ControlRoom(session, size=3)
    try:
        assert eventually(lambda: room.link["live"])
        tag = f"page{time.time_ns() % 10**6}"
        ids = [session.start_order(policy="patient", order_id=f"{tag}-{n}") for n in range(7)]
        assert eventually(lambda: all(session.status(id_)["state"] == "AWAITING_APPROVAL" for id_ in ids))
        # Orders started together are received in any order, and that is the order of a page.
        received = session.do(session.desk.ledger.orders(None, len(ids), None))
        ids = [row["id"] for row in reversed(received)]
        for id_ in ids[:2]:
            session.cancel(id_)
            assert asyncio.run(session.wait(id_))["state"] == "CANCELLED"
        say(room, "view", states=[], prefix=tag)
        pages = []

        def shows(number: int) -> bool:
            return eventually(lambda: room.page["number"] == number and room.page["prefix"] == tag)

        for number in (1, 2, 3):
            assert shows(number)
            pages.append([line["id"] for line in room.page["rows"]])
            say(room, "turn", forward=True)
        assert [id_ for page in pages for id_ in page] == sorted(ids)
        say(room, "view", states=["CANCELLED"], prefix="")
        assert eventually(lambda: room.page["states"] == ["CANCELLED"])
        assert {line["state"] for line in room.page["rows"]} == {"CANCELLED"}
        assert [line["id"] for line in room.page["rows"]][:2] == [ids[1], ids[0]], "newest first"
        assert eventually(lambda: room.counts["CANCELLED"] >= 2)
        seen = Seen(room)
        for id_ in ids[2:]:
            session.cancel(id_)
        # The filter is live: those cancelled just now come in by themselves, the page keeps its size.
        assert eventually(lambda: set(seen.lines) == set(ids[4:])), "the three newest of five"
        # Two clicks, faster than a page is read, turn two pages.
        say(room, "view", states=[], prefix=tag)
        assert eventually(lambda: room.page["prefix"] == tag)
        say(room, "turn", forward=True)
        say(room, "turn", forward=True)
        assert eventually(lambda: room.page["number"] == 3)
        assert [line["id"] for line in room.page["rows"]] == sorted(ids)[6:]
        asked(room, "turn", forward=True)
        assert room.page["number"] == 3, "there is no page after the last"
    finally:
        room.close()
