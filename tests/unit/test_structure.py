"""The chain that is learned from histories, on made-up runs whose program is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.courses import Program, act, child, drawn_seconds, history_of, local, race, signal, timer, together
from trellis.errors import BadInput
from trellis.insight.chain import Choice, Measured, Parallel, Repeat, Series, Step, steps_of
from trellis.insight.fit import learn
from trellis.insight.history import history_attempts, history_workflows
from trellis.insight.recommend import recommend
from trellis.insight.structure import Structure, structure_of
from trellis.insight.structure.groups import groups_of
from trellis.insight.structure.items import from_history

Draw = Callable[[Any], tuple[float, float]]


def exponential(mean: float) -> Draw:
    return lambda rng: (rng.exponential(mean), 0.0)


def constant(seconds: float) -> Draw:
    return lambda rng: (seconds, 0.0)


def learned(frame: pd.DataFrame) -> Structure:
    return structure_of(frame, history_attempts(frame), history_workflows(frame))


def right(found: Structure, steps: dict[str, Draw], tolerance: float = 0.1) -> None:
    """The chain's median and mean are those of the runs it was learned from."""
    drawn = drawn_seconds(found.chain, steps)
    measured = found.runs["seconds"]
    assert np.median(drawn) == pytest.approx(measured.median(), rel=tolerance)
    assert drawn.mean() == pytest.approx(measured.mean(), rel=tolerance)


def loop_of_ten(rng: Any) -> Program:
    for _ in range(10):
        yield act("poll", 0.1)


def test_a_loop_is_as_long_as_its_rounds() -> None:
    """Ten activities of 0.1 s in a loop take over a second, not 0.13 s."""
    found = learned(history_of(loop_of_ten))
    assert found.understood
    assert found.runs["seconds"].median() == pytest.approx(1.3, abs=0.1)
    assert "poll 10 times" in found.words
    right(found, {"poll": constant(0.1)})


def test_a_timer_is_part_of_the_chain() -> None:
    """An activity and a timer of 3 s take over 3 s, whatever the retry rule."""

    def program(rng: Any) -> Program:
        yield act("a", 0.05)
        yield timer(3.0)

    found = learned(history_of(program))
    assert found.understood
    assert "a, then a timer (3 s)" in found.words
    assert found.explained > 0.95
    right(found, {"a": constant(0.05)})


def test_local_activities_that_never_fail_are_measured() -> None:
    """Three local activities of 0.4 s in one workflow task take 1.2 s in a row, and no retry rule changes that."""

    def program(rng: Any) -> Program:
        for name in ("x", "y", "z"):
            yield local(name, 0.4)

    found = learned(history_of(program))
    assert found.understood
    assert not list(steps_of(found.chain))
    right(found, {})
    assert found.runs["seconds"].median() > 1.2
    with pytest.raises(BadInput, match="No retry rule changes"):
        recommend(5.0, 1e-3, learn(history_of(program)))


def test_branches_side_by_side_are_told_from_a_barrier() -> None:
    """Five branches of two activities are not the same as five activities and then five more."""

    def branches(rng: Any) -> Program:
        def one() -> Program:
            yield act("a", rng.exponential(0.1))
            yield act("b", rng.exponential(0.1))

        yield together(*(one() for _ in range(5)))

    def barrier(rng: Any) -> Program:
        for name in ("a", "b"):
            yield together(*(alone(act(name, rng.exponential(0.1))) for _ in range(5)))

    steps = {"a": exponential(0.1), "b": exponential(0.1)}
    apart, joined = learned(history_of(branches)), learned(history_of(barrier))
    assert "5 times (a, then b) side by side" in apart.words
    assert "5 times a side by side, then 5 times b side by side" in joined.words
    right(apart, steps)
    right(joined, steps)


def alone(*items: tuple[Any, ...]) -> Program:
    yield from items


def test_branches_with_different_activities_keep_their_order() -> None:
    """An activity follows the one of its own branch, also where both branches' activities ended before one task."""

    def program(rng: Any) -> Program:
        yield act("start", 0.1)
        yield together(
            alone(act("a", rng.exponential(0.1)), act("b", rng.exponential(0.1))),
            alone(act("c", rng.exponential(0.1)), act("d", rng.exponential(0.1))),
        )
        yield act("end", 0.1)

    found = learned(history_of(program))
    assert "start, then (a, then b) and (c, then d) side by side, then end" in found.words
    right(found, {**{name: exponential(0.1) for name in "abcd"}, "start": constant(0.1), "end": constant(0.1)})


def test_a_fan_out_keeps_its_widths() -> None:
    """Where the number of branches differs between runs, the chain holds the measured numbers, also a single one."""

    def program(rng: Any) -> Program:
        yield act("list", 0.1)
        yield together(*(alone(act("a", rng.exponential(0.1))) for _ in range(rng.integers(1, 12))))
        yield act("end", 0.1)

    found = learned(history_of(program, 200))
    assert found.understood
    assert "list, then 1 to 11 times a side by side, then end" in found.words
    right(found, {"a": exponential(0.1), "list": constant(0.1), "end": constant(0.1)})


def test_a_loop_may_have_no_rounds() -> None:
    """Loops whose rounds differ are one chain, also in runs without a round, and keep the scheduling of each round."""

    def program(rng: Any) -> Program:
        yield act("s", 0.1)
        for _ in range(rng.integers(0, 6)):
            yield act("poll", 0.1)
            yield timer(1.0)
        yield act("e", 0.1)

    found = learned(history_of(program, 200))
    assert "s, then (poll, then a timer (1 s)) 0 to 5 times, then e" in found.words
    repeat = next(one for one in found.chain.parts if isinstance(one, Repeat))  # type: ignore[union-attr]
    assert set(repeat.times) == {0, 1, 2, 3, 4, 5}
    right(found, {name: constant(0.1) for name in ("s", "poll", "e")})


def test_a_condition_is_a_choice() -> None:
    """An activity that runs in a third of the workflows is one of two courses, with its share."""

    def program(rng: Any) -> Program:
        yield act("s", 0.1)
        if rng.random() < 0.3:
            yield act("extra", 0.5)
        yield act("e", 0.1)

    found = learned(history_of(program, 300))
    assert isinstance(found.chain, Choice)
    assert max(found.chain.shares) == pytest.approx(0.7, abs=0.08)
    right(found, {"s": constant(0.1), "e": constant(0.1), "extra": constant(0.5)})


def test_workflows_without_a_pattern_are_their_measured_time_and_the_retries() -> None:
    """Where every run takes another course, the time without retries is measured, and a policy's retries are added."""

    def program(rng: Any) -> Program:
        for _ in range(8):
            name = "abcdefgh"[rng.integers(8)]
            yield act(name, 0.1, failures=int(rng.random() < 0.2), backoff=0.5)

    found = learned(history_of(program, 200))
    assert not found.understood
    assert "different courses" in found.words
    assert all(step.only_retries for step in steps_of(found.chain))
    # A retry costs the failed call and the backoff.
    right(found, dict.fromkeys("abcdefgh", lambda rng: (0.1, 0.6 * (rng.random() < 0.2))))
    base = found.chain.parts[0]  # type: ignore[union-attr]
    assert isinstance(base, Measured)
    assert np.median(base.seconds) == pytest.approx(8 * 0.13, rel=0.15)


def test_a_timeout_that_was_cancelled_is_not_on_the_way() -> None:
    """A deadline of a minute beside an activity of 0.1 s does not count where the activity wins."""

    def program(rng: Any) -> Program:
        yield race(act("a", rng.exponential(0.1)), timer(60.0))

    found = learned(history_of(program))
    assert [step.name for step in steps_of(found.chain)] == ["a"]
    right(found, {"a": exponential(0.1)})


def test_the_first_of_two_activities_is_measured() -> None:
    """A race is no choice of the two: its winner is faster than either."""

    def program(rng: Any) -> Program:
        yield race(act("a", rng.exponential(0.2)), act("b", rng.exponential(0.2)))
        yield act("c", 0.1)

    found = learned(history_of(program))
    assert "the first of a and b" in found.words
    right(found, {"c": constant(0.1)})


def test_a_wait_for_a_signal_is_measured_from_where_nothing_else_ran() -> None:
    """A wait lasts from the end of the last activity to the signal, or to its timeout."""

    def program(rng: Any) -> Program:
        yield act("a", 0.1)
        yield signal("approve", rng.exponential(2.0), timeout=3.0)
        yield act("b", 0.1)

    found = learned(history_of(program, 300))
    assert found.understood
    assert "a, then a wait for approve or a timeout (half within" in found.words
    assert found.explained > 0.9
    right(found, {"a": constant(0.1), "b": constant(0.1)})


def test_a_child_with_a_history_brings_its_own_chain() -> None:
    """The activities of a child are steps of the parent's chain; children do not count as workflows of their own."""

    def inner(rng: Any) -> Program:
        yield act("pack", rng.exponential(0.1))
        yield act("send", rng.exponential(0.1))

    def program(rng: Any) -> Program:
        yield act("a", 0.1)
        yield together(*(alone(child("Ship", inner(rng))) for _ in range(2)))

    frame = history_of(program)
    found = learned(frame)
    assert len(found.runs) == 100
    assert {step.name for step in steps_of(found.chain)} == {"a", "pack", "send"}
    assert isinstance(found.chain, Series)
    assert any(isinstance(part, Parallel) for part in found.chain.parts)
    right(found, {"a": constant(0.1), "pack": exponential(0.1), "send": exponential(0.1)})
    without = learned(frame[frame["parent"].isna()])
    assert [step.name for step in steps_of(without.chain)] == ["a"]
    right(without, {"a": constant(0.1)})


def test_retries_are_taken_out_of_a_step_and_put_back_by_its_policy() -> None:
    """The remainder of a run does not grow with its retries."""

    def program(rng: Any) -> Program:
        yield act("a", 0.1, failures=int(rng.integers(0, 3)), backoff=1.0)

    found = learned(history_of(program, 200))
    assert found.understood
    assert max(found.remainder) < 0.5
    right(found, {"a": lambda rng: (0.1, 1.1 * rng.integers(0, 3))})


def test_runs_that_did_not_complete_teach_no_chain() -> None:
    """Where nothing completed, a sentence says so; where some did, the others only count as ended."""
    frame = history_of(loop_of_ten, 20)
    workflow = frame["kind"] == "workflow"
    frame.loc[workflow, "outcome"] = "abandoned"
    found = learned(frame)
    assert not found.understood
    assert "None of these workflows has completed" in found.words
    frame.loc[workflow.to_numpy() & (np.arange(len(frame)) > 30), "outcome"] = "succeeded"
    again = learned(frame)
    assert again.understood
    assert len(again.runs) == 20


def test_the_attempts_alone_show_the_order_of_activities() -> None:
    """Without the whole history, the activities' times tell what followed what; timers are in the remainder."""

    def program(rng: Any) -> Program:
        yield act("a", 0.1)
        yield timer(1.0)
        yield together(alone(act("b", rng.exponential(0.1))), alone(act("c", rng.exponential(0.1))))

    frame = history_of(program)
    found = structure_of(history_attempts(frame), history_attempts(frame), history_workflows(frame))
    assert "a, then b and c side by side" in found.words
    right(found, {"a": constant(0.1), "b": exponential(0.1), "c": exponential(0.1)})
    alone_ = structure_of(history_attempts(frame), history_attempts(frame), None)
    assert alone_.understood


def test_an_orders_wait_and_remainder_are_measured() -> None:
    """An order's time is its steps, its wait for a person, and what the machine adds; only the wait is taken out."""
    rng = np.random.default_rng(3)
    attempts, orders = orders_waiting(rng, 200)
    found = structure_of(attempts, attempts, orders)
    assert found.understood
    waits = found.runs["waited"]
    assert (waits > 0).sum() == 100
    assert waits[waits > 0].median() == pytest.approx(10.0, abs=0.1)
    assert np.median(found.remainder) == pytest.approx(7 * 0.05, abs=0.03)
    right(found, {step.name: exponential(0.2) for step in steps_of(found.chain)})


def orders_waiting(rng: Any, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Attempts and orders, each second order approved after ten seconds. Every gap between steps is 0.05 s."""
    rows, orders = [], []
    begin = pd.Timestamp("2026-01-01", tz="UTC")
    for number in range(n):
        at = 100.0 * number
        first = at
        for step in ("receive", "validate", "charge", "prepare", "dispatch", "ship"):
            at += 0.05 + (10.0 if step == "charge" and number % 2 else 0.0)
            took = rng.exponential(0.2)
            rows.append({"order_id": f"o-{number}", "step": step, "attempt": 1,
                         "round": int(step in ("prepare", "dispatch")), "execution": 1, "try": 1, "lane": 0,
                         "outcome": "succeeded", "started_at": begin + pd.Timedelta(seconds=at),
                         "ended_at": begin + pd.Timedelta(seconds=at + took), "duration_ms": took * 1000})  # fmt: skip
            at += took
        at += 0.05
        orders.append({"order_id": f"o-{number}", "state": "COMPLETED", "seconds": at - first})
    return pd.DataFrame(rows), pd.DataFrame(orders)


def test_equal_courses_of_many_runs_are_one_group() -> None:
    """The work grows with the number of different courses, not with the number of runs."""
    items = from_history(history_of(loop_of_ten, 50))
    groups = groups_of(items, np.arange(50))
    assert [len(group.runs) for group in groups] == [50]
    assert groups[0].value.shape == (50, 10)


def test_two_workflow_types_are_two_courses() -> None:
    """A frame of two types gives a choice with their shares, and names them."""
    first, second = history_of(loop_of_ten, 30), history_of(lambda rng: alone(act("x", 1.0)), 10)
    second = second.assign(
        workflow_id=second["workflow_id"] + "-x", run_id=second["run_id"] + "-x", workflow_type="Other"
    )
    both = pd.concat([first, second], ignore_index=True)
    both = both.astype(dict.fromkeys(("kind", "name", "workflow_type", "outcome"), "category"))
    found = learned(both)
    assert isinstance(found.chain, Choice)
    assert found.chain.shares == (0.75, 0.25)
    assert "Made (75%)" in found.words
    assert list(steps_of(found.chain)) == [Step("poll"), Step("x")]
