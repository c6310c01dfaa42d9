"""The cases: 40 planted misconfigurations and 40 sound apps, with numbers drawn from a seed.

The sound ones are hostile: slow but rightly limited, flaky but rightly retried, with few samples, long with heartbeats.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from trellis.bench.clinic.app import Behaviour, Options

LASTS = 100.0
"""How long a benchmark runs before the doctor comes [s]."""


@dataclass(frozen=True)
class Case:
    """`runs` workflows, begun evenly over `over` seconds. `rule`: what the doctor should find; None: nothing.

    `slots`: activity slots of a worker of its own; 0: the worker that all share. `polled`: False for a queue of its
    activities, or with `code` "unserved" of the workflow itself, that no worker polls.
    """

    rule: str | None
    behaviour: Behaviour = field(default_factory=Behaviour)
    options: Options = field(default_factory=Options)
    runs: int = 16
    calls: int = 3
    over: float = 40.0
    slots: int = 0
    polled: bool = True
    code: str = ""


Maker = Callable[[random.Random], Case]


def _kills(draw: random.Random) -> Case:
    limit, width = draw.uniform(1.2, 2.5), draw.uniform(0.25, 0.45)
    # It ends 10 to 24 % of the good calls.
    median = limit * math.exp(-width * draw.uniform(0.7, 1.3))
    how = Behaviour(median=median, width=width, fails=draw.choice([0, 0.1]))
    return Case("timeout kills good calls", how, Options(start_to_close=limit), runs=20)


def _far(draw: random.Random) -> Case:
    how = Behaviour(median=draw.uniform(0.03, 0.2), hangs=draw.uniform(0.12, 0.2))
    limit = draw.uniform(30.0, 60.0)
    return Case(
        "timeout far above the slowest good call", how, Options(start_to_close=limit), runs=24, calls=2, over=30
    )


def _very_far(draw: random.Random) -> Case:
    how = Behaviour(median=draw.uniform(0.03, 0.2))
    limit = draw.choice([900.0, 1800.0, 3600.0])
    return Case("timeout far above the slowest good call", how, Options(start_to_close=limit))


def _no_limit(draw: random.Random) -> Case:
    how = Behaviour(poisoned=4, error=draw.choice(["ValueError", "BadAddress", "NoSuchUser"]))
    return Case("retries without limit", how, Options(backoff_coefficient=draw.choice([1.0, 1.5, 2.0])), runs=24)


def _interval(draw: random.Random) -> Case:
    first = draw.choice([0.01, 0.05, 0.1, 0.2])
    how = Behaviour(fails=draw.uniform(0.35, 0.5))
    own = Options(initial_interval=first, maximum_interval=draw.choice([0.2, 1.0, 5.0]))
    return Case("retry interval below the server's timers", how, own, runs=20)


def _long(draw: random.Random) -> Case:
    how = Behaviour(median=draw.uniform(2.8, 5.0), width=0.2)
    return Case("long activity without heartbeat", how, Options(start_to_close=draw.uniform(60, 900)), runs=10, calls=2)


def _gaps(draw: random.Random) -> Case:
    beat = draw.uniform(1.2, 2.0)
    how = Behaviour(median=draw.uniform(4.0, 6.0), width=0.1, beats=draw.choice([0.0, 3 * beat]))
    own = Options(start_to_close=60.0, heartbeat=beat)
    return Case("heartbeat timeout shorter than the gaps between heartbeats", how, own, runs=14, calls=1)


def _waits(draw: random.Random) -> Case:
    slots, median = draw.choice([1, 2]), draw.uniform(0.4, 0.8)
    runs = 24 * slots
    return Case("tasks wait for a worker", Behaviour(median=median), runs=runs, calls=2, over=6.0, slots=slots)


def _burst(draw: random.Random) -> Case:
    begin, lasts = draw.uniform(15, 30), draw.uniform(12, 20)
    how = Behaviour(fails=draw.choice([0.0, 0.03]), out_from=begin, out_until=begin + lasts)
    own = Options(maximum_attempts=draw.choice([0, 3, 4]))
    return Case("failures in bursts", how, own, runs=60, calls=1, over=60.0)


def _nobody(draw: random.Random) -> Case:
    return Case("nobody polls the queue", runs=draw.choice([3, 5]), calls=1, over=10.0, polled=False)


def _unserved(draw: random.Random) -> Case:
    return Case("nobody polls the queue", runs=3, calls=1, over=10.0, polled=False, code="unserved")


def _code(what: str) -> Maker:
    return lambda draw: Case("workflow tasks fail", runs=draw.choice([3, 4]), over=10.0, slots=20, code=what)


def _same_error(draw: random.Random) -> Case:
    how = Behaviour(poisoned=3, error=draw.choice(["BadCard", "NoSuchUser"]))
    own = Options(backoff_coefficient=1.0, maximum_attempts=draw.choice([6, 8]))
    return Case("an error that no retry gets past is retried", how, own, runs=18, calls=2)


def _no_room(draw: random.Random) -> Case:
    limit = draw.uniform(6.0, 10.0)
    own = Options(start_to_close=limit, schedule_to_close=limit)
    return Case("no room to retry", Behaviour(hangs=draw.uniform(0.15, 0.22)), own, runs=24, calls=2)


PLANTED: tuple[tuple[int, Maker], ...] = (
    (5, _kills), (3, _far), (2, _very_far), (4, _no_limit), (4, _interval), (4, _long), (3, _gaps), (3, _waits),
    (4, _burst), (2, _nobody), (1, _unserved), (2, _code("raises")), (1, _code("changed")),
    (1, _same_error), (1, _no_room),
)  # fmt: skip
"""How many of each are planted: 40 together."""


def _sound(
    behaviour: Behaviour, own: Options | None = None, runs: int = 16, calls: int = 3, over: float = 40.0
) -> Case:
    return Case(None, behaviour, own or Options(), runs, calls, over)


def _slow(draw: random.Random) -> Case:
    median = draw.uniform(2.0, 4.0)
    return _sound(Behaviour(median=median, width=0.2), Options(start_to_close=median * draw.uniform(3, 5)), 10, 2)


def _flaky(draw: random.Random) -> Case:
    return _sound(Behaviour(fails=draw.uniform(0.1, 0.4)), Options(backoff_coefficient=draw.choice([1.0, 1.5, 2.0])))


def _hanging(draw: random.Random) -> Case:
    return _sound(Behaviour(hangs=draw.uniform(0.05, 0.15)), Options(start_to_close=draw.uniform(1.5, 3.0)))


def _all_kinds(draw: random.Random) -> Case:
    how = Behaviour(median=0.3, fails=draw.uniform(0.1, 0.2), hangs=draw.uniform(0.05, 0.1))
    return _sound(how, Options(start_to_close=draw.uniform(3.0, 4.0)))


def _two_kinds(draw: random.Random) -> Case:
    how = Behaviour(second=draw.uniform(0.5, 0.9), second_share=0.4, hangs=0.05)
    return _sound(how, Options(start_to_close=draw.uniform(2.5, 3.5)))


def _beating(draw: random.Random) -> Case:
    how = Behaviour(median=draw.uniform(3.0, 8.0), width=0.2, beats=0.5)
    return _sound(how, Options(start_to_close=600.0, heartbeat=draw.uniform(4.0, 8.0)), 10, 1)


def _few(draw: random.Random) -> Case:
    how = Behaviour(median=draw.uniform(0.05, 1.2), fails=0.3, hangs=0.2)
    return _sound(how, Options(start_to_close=draw.uniform(2.0, 30.0), initial_interval=draw.choice([0.1, 1.0])), 2, 2)


def _counted(draw: random.Random) -> Case:
    return _sound(Behaviour(fails=draw.uniform(0.05, 0.2)), Options(maximum_attempts=draw.choice([5, 10])), 20)


def _deadline(draw: random.Random) -> Case:
    return _sound(Behaviour(hangs=0.1, fails=0.1), Options(start_to_close=2.0, schedule_to_close=90.0))


def _rarely(draw: random.Random) -> Case:
    return _sound(Behaviour(fails=0.04), Options(initial_interval=draw.choice([0.05, 0.2])))


def _gives_up(draw: random.Random) -> Case:
    return _sound(Behaviour(poisoned=5, error="BadCard"), Options(maximum_attempts=draw.choice([1, 2, 3])))


def _spread(draw: random.Random) -> Case:
    return _sound(Behaviour(fails=draw.uniform(0.1, 0.25)), runs=40, calls=1, over=60.0)


def _wide(draw: random.Random) -> Case:
    return _sound(Behaviour(median=0.1, width=draw.uniform(0.6, 0.9)), Options(start_to_close=draw.uniform(8.0, 20.0)))


def _calm(draw: random.Random) -> Case:
    return _sound(Behaviour(median=draw.uniform(0.02, 0.5)), Options(start_to_close=draw.choice([10.0, 30.0, 60.0])))


SOUND: tuple[tuple[int, Maker], ...] = (
    (3, _slow), (4, _flaky), (4, _hanging), (3, _all_kinds), (3, _two_kinds), (3, _beating), (3, _few), (3, _counted),
    (2, _deadline), (2, _rarely), (2, _gives_up), (3, _spread), (2, _wide), (3, _calm),
)  # fmt: skip
"""How many of each are sound: 40 together."""


def cases(seed: int, each: int | None = None) -> list[Case]:
    """All cases of a seed, or at most `each` of each kind."""
    draw = random.Random(seed)
    return [
        make(draw) for number, make in (*PLANTED, *SOUND) for _ in range(number if each is None else min(number, each))
    ]
