"""Which changed lines no replay ran."""

from __future__ import annotations

from trellis.replay.check.unrun import changed_lines, unrun_lines

OLD = """import os
LIMIT = 3


def pay(amount, *, card):
    check(amount)
    if amount > LIMIT:
        ask()
    return charge(
        amount,
        card,
    )
"""
NEW = """import os
LIMIT = 4


def pay(amount, *, card):
    check(amount)
    if amount > LIMIT:
        ask()
        warn()
    # why
    return charge(
        amount,
        card=card,
    )
"""
EVERYTHING = set(range(1, 20))


def test_a_changed_line_that_no_history_ran_is_told() -> None:
    """The new call is in a branch that no replay took."""
    assert unrun_lines(NEW, changed_lines(OLD, NEW), ran={6, 7, 11, 12, 13}) == [9]


def test_nothing_is_told_where_all_changed_lines_ran() -> None:
    """A comment, a constant of the module and an import do not count: they run at import, or never."""
    assert unrun_lines(NEW, changed_lines(OLD, NEW), ran=EVERYTHING) == []


def test_a_statement_on_several_lines_ran_if_one_of_them_did() -> None:
    """Python does not report each line of a call."""
    changed = changed_lines(OLD, NEW)
    assert 13 in changed
    assert unrun_lines(NEW, changed, ran={9, 11}) == []
    assert unrun_lines(NEW, changed, ran={9}) == [13]


def test_a_head_does_not_count_for_its_block() -> None:
    """That the condition was asked does not mean that the block ran."""
    assert unrun_lines(NEW, {7, 8, 9}, ran={7}) == [8, 9]


def test_without_an_old_file_all_lines_are_new() -> None:
    """A file that was not there before."""
    lines = set(unrun_lines(NEW, changed_lines(None, NEW), ran=set()))
    assert lines >= {6, 7, 8, 9, 11}
    assert not lines & {1, 2, 5, 10}
