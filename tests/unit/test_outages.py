"""Outages and capacity as part of a fault plan, and what they do to a call."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from typing import Any

import pytest

from trellis.errors import ConfigError
from trellis.faults import FaultPlan, InjectedError, Mix, PlanInForce
from trellis.flaky import FlakyCall, Marks
from trellis.model import TryId
from trellis.outages import (
    Capacity,
    Outage,
    RandomOutages,
    in_words,
    parse_capacity,
    parse_outage,
    parse_random_outages,
)

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def one_try(step: str = "charge", number: int = 1) -> TryId:
    return TryId("o", step, 0, 1, number)


def test_an_outage_holds_in_its_window_for_its_step() -> None:
    """From its beginning up to its end, for the step that it names, or for all steps."""
    plan = FaultPlan.calm().with_outages(Outage(5, 10, step="charge"), Outage(7, 1, "hang"))
    found = {at: plan.out("charge", at) for at in (-1.0, 4.999, 5.0, 14.999, 15.0)}
    assert [at for at, one in found.items() if one] == [5.0, 14.999]
    assert plan.out("ship", 5.5) is None
    assert plan.out("ship", 7.5) == Outage(7, 1, "hang")
    assert plan.out("charge", 7.5) == Outage(5, 10, step="charge")


def test_random_outages_follow_from_the_seed() -> None:
    """Asked for one moment or listed in turn, the windows are the same; another seed gives others."""
    random = RandomOutages(2, 18, "hang", "charge")
    windows = list(islice(random.windows(4), 2500))
    assert all(one.ends <= two.begins for one, two in pairwise(windows))
    for one, two in pairwise(windows[990:1010]):
        assert random.window(4, one.begins) == random.window(4, (one.begins + one.ends) / 2) == one
        assert random.window(4, (one.ends + two.begins) / 2) is None
    assert list(islice(random.windows(5), 10)) != windows[:10]
    plan = FaultPlan(seed=4).with_outages(random)
    assert plan.out("charge", windows[7].begins) == windows[7]
    assert plan.out("ship", windows[7].begins) is None


def test_lengths_and_gaps_of_random_outages_are_exponential() -> None:
    """Means and spread of 5,000 windows are those of an exponential distribution, within five standard errors."""
    windows = list(takewhile(lambda one: one.begins < 5000 * 20, RandomOutages(2, 18).windows(0)))
    gaps = [two.begins - one.ends for one, two in pairwise(windows)]
    for mean, drawn in ((2, [one.seconds for one in windows]), (18, gaps)):
        error = mean / math.sqrt(len(drawn))
        assert abs(sum(drawn) / len(drawn) - mean) < 5 * error
        # A share of 1/e of an exponential distribution is longer than its mean.
        longer = sum(one > mean for one in drawn) / len(drawn)
        assert abs(longer - 1 / math.e) < 5 * 0.5 / math.sqrt(len(drawn))


def test_a_moment_after_a_month_is_found_at_once() -> None:
    """The windows of a plan that has been in force for long are not all drawn to find the present one."""
    found = [RandomOutages(1, 1).window(0, 30 * 86_400.0 + at) for at in range(200)]
    assert 40 < sum(one is not None for one in found) < 160


def test_a_plan_with_outages_and_capacity_survives_its_json() -> None:
    """What is stored is what comes back; a plan of yesterday has neither."""
    plan = (
        FaultPlan.canonical(3)
        .with_outages(Outage(5, 10, "hang", "charge"), RandomOutages(2, 20))
        .with_capacity("ship", Capacity(3, 0.2))
    )
    assert FaultPlan.from_json(plan.to_json()) == plan
    old = {
        name: value for name, value in FaultPlan.canonical(3).to_json().items() if name not in ("outages", "capacity")
    }
    assert FaultPlan.from_json(old) == FaultPlan.canonical(3)
    assert plan.with_capacity("ship", None).with_outages() == FaultPlan.canonical(3)
    # A slider moves without touching the rest.
    assert plan.moved(None, "error", 0.5).outages == plan.outages


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"outages": [{"begins": 0, "seconds": 0}]}, "lasts more than 0 s"),
        ({"outages": [{"begins": 0, "seconds": -5}]}, "lasts more than 0 s"),
        ({"outages": [{"begins": -1, "seconds": 5}]}, "begins 0 s or more"),
        ({"outages": [{"begins": 0, "seconds": float("nan")}]}, "lasts more than 0 s"),
        ({"outages": [{"begins": 0, "seconds": 5, "how": "weird"}]}, "one of error, hang"),
        ({"outages": [{"begins": 0, "seconds": 5, "step": "nostep"}]}, "no step 'nostep'"),
        ({"outages": [{"mean_seconds": 0, "mean_gap": 5}]}, "0.01 s or more"),
        ({"outages": [{"begins": 0}]}, "unknown field or a value of a wrong type"),
        ({"outages": ["charge"]}, "unknown field or a value of a wrong type"),
        ({"capacity": {"charge": {"calls": 0, "seconds": 1}}}, "from 1 to 1000 calls at once, not 0"),
        ({"capacity": {"charge": {"calls": 1.5, "seconds": 1}}}, "from 1 to 1000 calls"),
        ({"capacity": {"charge": {"calls": 2, "seconds": 0}}}, "takes more than 0 s"),
        ({"capacity": {"nostep": {"calls": 2, "seconds": 1}}}, "no step 'nostep'"),
        ({"capacity": [1]}, "unknown field or a value of a wrong type"),
    ],
)
def test_an_outage_or_a_capacity_that_makes_no_sense_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    """Each mistake is refused in words before it is stored."""
    with pytest.raises(ConfigError, match=sentence):
        FaultPlan.from_json(FaultPlan.calm().to_json() | changes)


def test_windows_and_capacities_are_read_from_a_command_line() -> None:
    """A step and two numbers; all steps; raising or hanging."""
    assert parse_outage("charge:5:10:hang") == Outage(5, 10, "hang", "charge")
    assert parse_outage("all:0:1.5") == Outage(0, 1.5)
    assert parse_random_outages("ship:2:20") == RandomOutages(2, 20, step="ship")
    assert parse_capacity("charge:3:0.2") == ("charge", Capacity(3, 0.2))
    assert parse_capacity("charge:none") == ("charge", None)
    assert in_words(parse_outage("charge:5:10:hang")) == "charge hangs from 5 s to 15 s"
    for read, text in (
        (parse_outage, "charge"), (parse_outage, "charge:x:1"), (parse_outage, "charge:1:2:hang:more"),
        (parse_random_outages, "all:1"), (parse_capacity, "charge:3"), (parse_capacity, "charge:1.5:1"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="cannot be read"):
            read(text)


class Provider:
    """A provider that counts its calls; each waits behind all before it."""

    def __init__(self, wait: float = 0.0) -> None:
        self.wait, self.calls = wait, 0

    async def reserve(self, step: str, capacity: Capacity) -> float:
        self.calls += 1
        return self.wait + capacity.seconds


async def called(
    plan: FaultPlan, after: float, provider: Provider, since: datetime | None = SINCE
) -> tuple[str, Marks]:
    """How a charge ends that begins `after` seconds, with its marks."""
    flaky = FlakyCall(lambda: PlanInForce(plan), provider.reserve, lambda: SINCE + timedelta(seconds=after))
    marks = Marks()
    try:
        async with asyncio.timeout(0.1):
            lost = await flaky(PlanInForce(plan, 1, since), one_try(), marks)
        return ("reply lost" if lost else "ok"), marks
    except InjectedError as error:
        return str(error), marks
    except TimeoutError:
        return "timed out", marks


async def test_an_outage_comes_before_the_drawn_outcome() -> None:
    """In the window every call raises or hangs, and says so. Outside, the mix decides."""
    plan = FaultPlan(Mix(error=1.0), hang_seconds=60).with_outages(Outage(0, 5), Outage(10, 5, "hang"))
    provider = Provider()
    assert await called(plan, 2, provider) == ("charge is out on purpose", Marks("error", injected="outage"))
    assert await called(plan, 12, provider) == ("timed out", Marks("hang", injected="outage"))
    assert await called(plan, 7, provider) == ("charge failed on purpose", Marks(injected="error"))
    assert await called(plan, 2, provider, since=None) == ("charge failed on purpose", Marks(injected="error"))
    short = FaultPlan(hang_seconds=0.001).with_outages(Outage(0, 5, "hang"))
    assert await called(short, 2, provider) == ("ok", Marks("hang", injected="outage"))
    assert Marks("hang", injected="outage").payload() == {"outage": "hang"}


async def test_only_a_call_that_reaches_the_provider_takes_a_place() -> None:
    """A call that raises, hangs or meets an outage does not; one whose reply is lost does."""
    capacity = Capacity(1, 0.001)
    for plan, ends, calls in (
        (FaultPlan(Mix(error=1.0)), "charge failed on purpose", 0),
        (FaultPlan(Mix(hang=1.0)), "timed out", 0),
        (FaultPlan().with_outages(Outage(0, 5)), "charge is out on purpose", 0),
        (FaultPlan(Mix(reply_lost=1.0)), "reply lost", 1),
        (FaultPlan(), "ok", 1),
    ):
        provider = Provider()
        found, marks = await called(plan.with_capacity("charge", capacity), 1, provider)
        assert (found, provider.calls) == (ends, calls)
        assert (marks.queued is not None) == bool(calls)


async def test_a_call_that_is_given_up_is_marked_with_its_queue() -> None:
    """The mark is set when the place is taken, so a caller with a short timeout leaves it too."""
    found, marks = await called(FaultPlan().with_capacity("charge", Capacity(1, 5)), 1, Provider(wait=40))
    assert (found, marks.payload()) == ("timed out", {"queued": 40.0})
    assert await called(FaultPlan().with_capacity("ship", Capacity(1, 5)), 1, Provider()) == ("ok", Marks())
