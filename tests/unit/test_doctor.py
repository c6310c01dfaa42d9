"""Each rule of the doctor on made frames: what is planted is found, and nothing else is said."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from tests.unit.doctor_ward import PLANTED, QUICK, SOUND, App, Made, mixed, play, quick
from trellis import insight
from trellis.bench.clinic.cases import Case
from trellis.bench.doctor import judged
from trellis.errors import BadInput
from trellis.insight.doctor import Finding, Predicted, Report
from trellis.insight.doctor.numbers import burst, chance, erlang_wait, limits, rounded_up, tail
from trellis.insight.doctor.rules import RULES

ALL = [(rule, app) for rule, apps in PLANTED.items() for app in apps]


def seen(made: Made, *, book: bool) -> Report:
    return insight.doctor(made.history, made.book if book else None, made.queues, now=made.now)


@pytest.mark.parametrize(("number", "rule"), list(enumerate(rule for rule, _ in ALL)))
def test_what_is_planted_is_found_and_nothing_else(number: int, rule: str) -> None:
    """By histories alone, and with the book of attempts; the finding names an option, a value and numbers."""
    made = play(ALL[number][1], seed=number)
    for book in (False, True):
        report = seen(made, book=book)
        assert [one.rule for one in report.findings] == [rule], report.words()
        (finding,) = report.findings
        assert finding.option
        assert finding.set
        assert finding.evidence["says"]
        assert sum(isinstance(value, int | float) for value in finding.evidence.values()) >= 3
        assert finding.subject.startswith("app")


@pytest.mark.parametrize(("number", "name"), list(enumerate(SOUND)))
def test_nothing_is_found_in_a_sound_app(number: int, name: str) -> None:
    """However slow, flaky or hung its calls are: its options fit them, or the evidence is thin."""
    report = seen(play(SOUND[name], seed=7), book=number % 2 == 0)
    assert report.findings == (), report.words()


def test_every_rule_is_planted_here() -> None:
    """A new rule needs a planted app."""
    assert set(PLANTED) == {rule.name for rule in RULES}


def test_the_costliest_finding_comes_first() -> None:
    """Workflows that fail or stand still count more than seconds."""
    kills = play(replace(PLANTED["timeout kills good calls"][0], name="kills"))
    stuck = play(replace(PLANTED["retries without limit"][0], name="stuck"))
    far = play(replace(PLANTED["timeout far above the slowest good call"][2], name="far"))
    all_ = pd.concat([far.history, kills.history, stuck.history], ignore_index=True)
    report = insight.doctor(all_, now=stuck.now)
    assert [one.subject for one in report.findings] == ["stuck-call", "kills-call", "far-call"]
    assert [one.cost for one in report.findings] == sorted((one.cost for one in report.findings), reverse=True)


def test_two_types_with_different_timeouts_are_judged_apart() -> None:
    """A type that two workflows call with different options is two groups: one finding, about the worse one."""
    tight = play(replace(PLANTED["timeout kills good calls"][0], name="app"))
    wide = play(replace(PLANTED["timeout kills good calls"][0], name="app", start_to_close_timeout=20.0), seed=1)
    other = wide.history.assign(
        workflow_id="other-" + wide.history["workflow_id"], run_id="other-" + wide.history["run_id"]
    )
    report = insight.doctor(pd.concat([tight.history, other], ignore_index=True), now=tight.now)
    (finding,) = report.findings
    assert finding.rule == "timeout kills good calls"
    assert finding.evidence["timeout"] == 2.0


def test_a_prediction_says_what_the_option_changes() -> None:
    """The time of an activity falls with the timeout that is proposed."""
    report = seen(play(PLANTED["timeout kills good calls"][0]), book=False)
    predicted = report.findings[0].predicted
    assert predicted.now is not None
    assert predicted.then is not None
    assert predicted.then < predicted.now
    hung = seen(play(PLANTED["timeout far above the slowest good call"][0]), book=False).findings[0].predicted
    assert hung.now is not None
    assert hung.then is not None
    assert hung.then < hung.now / 2


def test_a_report_reads_as_json_words_and_a_frame() -> None:
    """The JSON is strict, with the six keys of a finding; the page shows text of others as text."""
    made = play(replace(PLANTED["retries without limit"][0], name="<b>app"))
    report = seen(made, book=True)
    found = json.loads(json.dumps(report.to_json()), parse_constant=pytest.fail)
    assert {"activity_type", "rule", "evidence", "option", "set", "predicted"} <= set(found["findings"][0])
    assert report.words().startswith("1 finding in 40 workflows")
    assert list(report.frame["rule"]) == ["retries without limit"]
    assert "&lt;b&gt;app" in report._repr_html_()
    assert "<b>app" not in report._repr_html_()


def test_what_could_not_be_judged_is_said() -> None:
    """Without a book, and without queues, the notes say so. The frame of nothing has its columns all the same."""
    report = insight.doctor(play(QUICK).history)
    assert "no book of attempts" in report.words()
    assert "polls the queues" in report.words()
    assert list(report.frame.columns)[:3] == ["activity_type", "workflow_type", "rule"]


def test_the_book_alone_is_enough() -> None:
    """Attempts without a history: timeouts, intervals and bursts are judged from them."""
    for rule in ("timeout kills good calls", "retry interval below the server's timers", "failures in bursts"):
        made = play(PLANTED[rule][0])
        assert [one.rule for one in insight.doctor(book=made.book, now=made.now).findings] == [rule]


def test_a_worker_that_died_is_no_hang_of_the_book() -> None:
    """An attempt that is open in the book although a later one exists was lost with its worker."""
    made = play(QUICK)
    book = made.book.copy()
    again = book.iloc[:2].assign(attempt=2)
    book.loc[book.index[:2], "outcome"] = "open"
    book.loc[book.index[:2], "ended_at"] = pd.NaT
    report = insight.doctor(book=pd.concat([book, again], ignore_index=True), now=made.now)
    assert report.findings == ()


def test_an_empty_history_is_no_error() -> None:
    """Nothing was found in nothing, and the words say how little that is."""
    made = play(replace(QUICK, runs=0))
    assert seen(made, book=True).words().startswith("0 findings in 0 workflows")


@pytest.mark.parametrize(
    ("given", "word"),
    [({}, "frame"), ({"history": 3}, "DataFrame"), ({"history": pd.DataFrame({"a": [1]})}, "insight.history"),
     ({"book": pd.DataFrame({"a": [1]})}, "insight.flights")],
)  # fmt: skip
def test_another_kind_of_frame_is_refused_in_words(given: dict[str, object], word: str) -> None:
    """BadInput names what to give."""
    with pytest.raises(BadInput, match=word):
        insight.doctor(**given)  # type: ignore[arg-type]


def test_the_tail_beyond_a_timeout_is_recovered() -> None:
    """Of lognormal calls cut off at a time, the share that takes longer lies within its limits in 18 of 20 samples."""
    right = 0
    for seed in range(20):
        took = np.random.default_rng(seed).lognormal(0.0, 0.5, 150)
        cut_off = 1.4
        found = tail(took[took < cut_off], cut_off, int((took >= cut_off).sum()))
        true = 0.2505
        right += found.low <= true <= found.high
        assert 0.02 < found.share < 0.6
    assert right >= 18


def test_hung_calls_are_no_tail() -> None:
    """If good calls end long before the timeout, those that were cut off hung: the tail is nearly nothing."""
    took = np.random.default_rng(1).lognormal(np.log(0.05), 0.4, 100)
    assert tail(took, 2.0, 30).high < 0.001


def test_a_burst_is_found_where_it_is_and_chance_makes_none() -> None:
    """Planted from call 40 to 59 among rare failures; in 200 random sequences no burst is significant."""
    rng = np.random.default_rng(2)
    failed = rng.random(150) < 0.05
    failed[40:60] = True
    found = burst(failed)
    assert found is not None
    assert (found.first, found.last) == (40, 59)
    assert chance(found.surprise, 150) < 1e-6
    for _ in range(200):
        random = rng.random(150) < 0.2
        by_chance = burst(random)
        assert by_chance is None or chance(by_chance.surprise, 150) > 0.001


def test_small_numbers_are_right() -> None:
    """Limits of a share, Erlang's wait, and values as people write them."""
    assert limits(0, 10)[0] == 0.0
    assert limits(10, 10)[1] == 1.0
    assert limits(5, 10)[0] == pytest.approx(0.2224, abs=1e-3)
    # One server: the wait is rho * service / (1 - rho).
    assert erlang_wait(0.5, 1.0, 1) == pytest.approx(1.0)
    assert erlang_wait(1.0, 1.0, 2) == pytest.approx(1 / 3)
    assert erlang_wait(2.0, 1.0, 2) == float("inf")
    assert [rounded_up(value) for value in (0.013, 1.0, 1.01, 7.0, 61.0, 3000.0)] == [
        0.015,
        1.0,
        1.5,
        8.0,
        90.0,
        3000.0,
    ]


def test_the_bench_counts_right_wrong_and_missed() -> None:
    """A finding about a sound case is false, and so is another rule's about a planted one."""

    def finding(case: int, rule: str) -> Finding:
        return Finding(rule, f"Case{case:02}-call", None, {"says": ""}, "", "", Predicted("", None, None))

    all_ = [Case("a"), Case("b"), Case("c"), Case(None), Case(None)]
    said = (finding(0, "a"), finding(1, "a"), finding(3, "a"), finding(2, "c"))
    found = judged(all_, Report(said, 0, 0, ()))
    assert (found["planted"], found["found"], found["sound"], found["false"]) == (3, 2, 2, 2)
    assert (found["precision"], found["recall"]) == (0.5, 0.6667)


def test_short_waits_and_few_samples_stay_silent() -> None:
    """A worker that starts a little late is not too small, whatever waited for it."""
    made = play(replace(QUICK, behaviour=mixed(quick), runs=60, every=0.05))
    late = made.history.copy()
    acts = late["kind"] == "activity"
    # The worker came six seconds after everything was scheduled.
    for name in ("started_at", "ended_at"):
        late.loc[acts, name] = late.loc[acts, name].clip(
            lower=made.history["scheduled_at"].max() + timedelta(seconds=6)
        )
    assert insight.doctor(late, None, made.queues, now=made.now).findings == ()


def test_an_app_is_what_it_was() -> None:
    """The made evidence of a seed is the same each time."""
    first, again = play(App(mixed(quick), runs=3), 5), play(App(mixed(quick), runs=3), 5)
    pd.testing.assert_frame_equal(first.history, again.history)
