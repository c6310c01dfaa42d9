"""Which histories went the same way."""

from __future__ import annotations

from temporalio.client import WorkflowHistory

from tests.replay.made import Made
from trellis.replay.check.paths import grouped, is_open


def order(id: str, *, name: str = "Shop", amount: int = 5, signal: str = "", step: str = "charge") -> Made:
    made = Made(name, amount, id=id)
    made.done(made.activity("reserve", amount))
    if signal:
        made.signalled(signal)
    made.done(made.activity(step, amount))
    return made


def groups(*histories: Made) -> list[tuple[str, list[str], list[str], list[str]]]:
    """(type, closed ones, open ones, those to replay) of each path, by workflow ids."""
    all_: list[WorkflowHistory] = [one.history() for one in histories]

    def ids(numbers: list[int]) -> list[str]:
        return [all_[number].workflow_id for number in numbers]

    return [(one.type, ids(one.closed), ids(one.open), ids(one.to_replay())) for one in grouped(all_)]


def test_one_closed_history_of_a_path_is_replayed() -> None:
    """Other amounts and other times are the same path."""
    assert groups(order("a").completed(1), order("b", amount=7).completed(2)) == [("Shop", ["a", "b"], [], ["a"])]


def test_every_open_workflow_is_replayed() -> None:
    """Each of them is a workflow that a deployment may break. An open one is of another path than one that went on."""
    assert groups(order("a").completed(), order("b"), order("c")) == [
        ("Shop", ["a"], [], ["a"]),
        ("Shop", [], ["b", "c"], ["b", "c"]),
    ]


def test_what_a_workflow_asked_for_and_was_told_makes_its_path() -> None:
    """Another activity, a signal and another type are other paths."""
    different = (order("a"), order("b", step="invoice"), order("c", signal="hurry_up"), order("d", name="Shop2"))
    assert len(groups(*(one.completed() for one in different))) == 4


def test_a_history_without_an_end_is_open() -> None:
    """Also one that was cut."""
    assert is_open(order("a").history())
    assert not is_open(order("a").completed().history())
