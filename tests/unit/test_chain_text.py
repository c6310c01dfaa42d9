"""Chains written as text, and read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis.errors import BadInput
from trellis.insight.chain import ORDER, Choice, Measured, Parallel, Part, Repeat, Rounds, Series, Step, steps_of
from trellis.insight.chain_text import parse, words

A, B, C = Step("a"), Step("b"), Step("c")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a", A),
        ("a, b x 10", Series((A, Repeat(B, (10,))))),
        ("(a | b, c) x2", Repeat(Parallel((A, Series((B, C)))), (2,))),
        ("a | b", Parallel((A, B))),
        ("a x 2/3", Repeat(A, (2, 3))),
        ("200ms", Measured("200ms", (0.2,))),
        ("1s/2min", Measured("1s/2min", (1.0, 120.0))),
        ("(70%: a; 30%: b, c)", Choice((A, Series((B, C))), (0.7, 0.3))),
        ("rounds(a, b), retries(c)", Series((Rounds(Series((A, B))), Step("c", only_retries=True)))),
        ('"charge card", "3s", "x"', Series((Step("charge card"), Step("3s"), Step("x")))),
        ("pkg/Do.It x 2 x 3", Repeat(Repeat(Step("pkg/Do.It"), (2,)), (3,))),
    ],
)
def test_a_text_is_read_as_the_chain_that_it_describes(text: str, part: Part) -> None:
    """Commas, bars, times, groups, fixed times, choices, rounds, and names that need quotation marks."""
    assert parse(text) == part


@pytest.mark.parametrize(
    "text",
    ["", " ", "a,", ",a", "a b", "(a", "a)", "a x", "a x b", "a x 2.5", "a x 1000000", "a | ", '"a', '" "', "()",
     "(50%: a; 20%: b)", "(50% a; 50%: b)", "rounds()", "retries(a, b)", "a;b", "(" * 100 + "a" + ")" * 100],
)  # fmt: skip
def test_a_text_that_is_no_chain_is_refused_in_one_sentence(text: str) -> None:
    """Each says what is missing or out of place, and shows how chains are written."""
    with pytest.raises(BadInput, match=r"^The steps .* cannot be read: .*\. Write them as in"):
        parse(text)


NAMES = st.text(min_size=1, max_size=8).filter(str.strip) | st.sampled_from(
    ["a", "x", "3s", "rounds", "x2", "70%", "\x1f0"]
)
PARTS: st.SearchStrategy[Part] = st.recursive(
    st.builds(Step, NAMES, st.booleans())
    | st.lists(st.integers(1, 10**6), min_size=2, max_size=5, unique=True).map(
        lambda ms: Measured("a time", tuple(sorted(one / 1000 for one in ms)))
    ),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Series(tuple(parts)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: Parallel(tuple(parts)))
        | st.builds(Repeat, inner, st.sets(st.integers(0, 99), min_size=1, max_size=4).map(lambda n: tuple(sorted(n))))
        | st.builds(lambda a, b: Choice((a, b), (0.25, 0.75)), inner, inner)
        | st.builds(Rounds, inner)
    ),
    max_leaves=8,
)


@given(PARTS)
def test_what_was_written_is_read_again(part: Part) -> None:
    """Any chain: its text gives the same text again, and the same steps in the same order."""
    again = parse(words(part))
    assert words(again) == words(part)
    assert list(steps_of(again)) == list(steps_of(part))


def test_many_durations_are_written_as_twelve() -> None:
    """A thousand measured times become twelve of their quantiles, which keep the mean within a few per cent."""
    many = Measured("the rest", tuple(one / 1000 for one in range(1000)))
    few = parse(words(many))
    assert isinstance(few, Measured)
    assert len(few.seconds) == 12
    assert sum(few.seconds) / 12 == pytest.approx(0.5, abs=0.02)


def test_an_order_is_a_chain_like_any_other() -> None:
    """Three steps, rounds of shipping, one more step."""
    assert words(ORDER) == "receive, validate, charge, rounds(prepare, dispatch), ship"
    assert parse(words(ORDER)) == ORDER
