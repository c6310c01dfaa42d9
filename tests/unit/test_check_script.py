"""A new run is told what a recorded one was told, in the same order."""

from __future__ import annotations

import asyncio

from tests.replay.made import Made
from trellis.replay.check.script import ACTIVITY, NEVER, Script


def recorded() -> Script:
    """Two activities with a signal between their answers, and one that never answered."""
    made = Made("Shop", 5)
    made.done(made.activity("reserve", 1), "first")
    made.signalled("hurry_up")
    made.done(made.activity("charge", 1), "second")
    made.activity("ship", 1)
    return Script(made.history().events)


async def test_an_answer_waits_until_the_message_before_it_was_sent() -> None:
    """Otherwise a cancellation that came during a charge would come after it."""
    script = recorded()
    first = await script.answer(ACTIVITY, "reserve", "1")
    assert first is not None
    first.over = True
    charge = asyncio.create_task(script.answer(ACTIVITY, "charge", "2"))
    for _ in range(5):
        await asyncio.sleep(0.02)
    assert not charge.done()
    message = script.message
    assert message is not None
    assert message.name == "hurry_up"
    message.over = True
    answer = await asyncio.wait_for(charge, 30)
    assert answer is not None
    assert answer.payloads[0].data == b'"second"'


async def test_a_repeated_attempt_gets_the_same_answer() -> None:
    """The server repeats an activity whose worker was slow."""
    script = recorded()
    assert await script.answer(ACTIVITY, "reserve", "1") is await script.answer(ACTIVITY, "reserve", "1")


async def test_an_activity_without_an_end_never_answers() -> None:
    """And one that the history does not have has no answer. Neither waits for its turn."""
    script = recorded()
    ship = await script.answer(ACTIVITY, "ship", "3")
    assert ship is not None
    assert ship.ended == NEVER
    assert await script.answer(ACTIVITY, "unknown", "4") is None
