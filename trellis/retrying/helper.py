"""The public helper: the loop of tries as a decorator and as a block. The package's docstring shows both."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from temporalio import activity

from trellis.errors import ConfigError
from trellis.plugin.current import LOOPS
from trellis.retry import Jitter, Placement, Retry, contradictions
from trellis.retrying.gate import Gate, Gates
from trellis.retrying.loop import Retrying, Stop, beats, benign
from trellis.retrying.noting import Notes

P = ParamSpec("P")
T = TypeVar("T")
Tries = Callable[[Callable[[], Awaitable[T]]], Awaitable[T]]

_DEFINITION = "__temporal_activity_definition"
"""Where the SDK keeps what `activity.defn` said of a function (temporalio/activity.py)."""

_KEYS = uuid.UUID("5f0c6d1e-8a0b-5b1e-9f3a-7c0d2e4b6a81")

_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, Gates] = WeakKeyDictionary()
"""The gates of each event loop. A gate's timers belong to a loop, and a worker has one."""


def key(part: str = "") -> str:
    """An idempotency key for the outside calls of the running activity: a UUID as text.

    All attempts, tries and lanes of the activity get the same key, also after a worker died, the workflow was replayed,
    or a server was restarted. It is made from the namespace, the workflow's id, its run's id and the activity's id, and
    never from the number of an attempt. `part` tells several calls of one activity apart.

    A new run is a new key: after a reset, a retry of the workflow, or continue-as-new. A local activity without an id
    of its own gets a new one after a pause that is longer than a workflow task. Where that must not repeat the effect,
    make a key in the workflow and pass it in. An activity id that a workflow gives to two activities is one key.

    Raises RuntimeError outside of an activity.
    """
    info = activity.info()
    run = info.workflow_run_id or info.activity_run_id or ""
    return str(uuid.uuid5(_KEYS, "\x1f".join([info.namespace, info.workflow_id or "", run, info.activity_id, part])))


def retrying(rule: Retry, what: str | None = None, *, heartbeat: bool = True) -> Loop:
    """A loop of tries by this rule: a decorator for an async activity, or an async context for a part of one.

    what: names the work in messages; by default the activity's type. heartbeat: send heartbeats while the tries run.
    Switch it off for an activity that sends heartbeats with details of its own: these would be overwritten.
    Raises ConfigError for a rule that contradicts itself.
    """
    return Loop(rule, what, heartbeat=heartbeat)


class Loop:
    """What `retrying` returns. Many activities can share one."""

    def __init__(self, rule: Retry, what: str | None = None, *, heartbeat: bool = True) -> None:
        if not isinstance(rule, Retry):
            raise ConfigError(f"retrying() takes a Retry, not {type(rule).__name__}: @retrying(Retry(try_timeout=1)).")
        rule = _checked(rule)
        if wrong := [why for is_so, why in contradictions("retry", rule, math.inf) if is_so]:
            raise ConfigError(f"{wrong[0]}.")
        self._rule = rule
        self._what = what
        self._heartbeat = heartbeat
        self._beats: dict[object, list[asyncio.Task[None] | None]] = {}

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """`function` in a loop of tries. An activity stays an activity of the same name.

        Raises ConfigError for a function that is not async.
        """
        if not inspect.iscoroutinefunction(function):
            raise ConfigError(
                f"{getattr(function, '__name__', function)} is not async, so a try of it could not be ended. Make the "
                f"activity async, and run its blocking part with asyncio.to_thread."
            )

        @functools.wraps(function)
        async def tried(*args: P.args, **kwargs: P.kwargs) -> T:
            async with self as tries:
                value: T = await tries(lambda: function(*args, **kwargs))
                return value

        if self._rule.placement is Placement.ACTIVITY:
            setattr(tried, LOOPS, True)
        # Of an activity, `wraps` copied the definition too, and that one names the function without the loop.
        definition = vars(tried).pop(_DEFINITION, None)
        if definition is None:
            return tried
        unseen = definition.no_thread_cancel_exception
        if definition.name is None:
            return activity.defn(dynamic=True, no_thread_cancel_exception=unseen)(tried)
        return activity.defn(name=definition.name, no_thread_cancel_exception=unseen)(tried)

    async def __aenter__(self) -> Tries[Any]:
        # A function that is tried outside of a worker has nobody to send heartbeats to.
        beating = self._heartbeat and activity.in_activity()
        self._beats.setdefault(asyncio.current_task(), []).append(asyncio.create_task(beats()) if beating else None)
        return self._run

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        task = asyncio.current_task()
        beat = self._beats[task].pop()
        if not self._beats[task]:
            del self._beats[task]
        if beat is not None:
            beat.cancel()
        if isinstance(error, Stop):
            raise benign(str(error), "Stopped", retry=False) from error

    async def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        if self._rule.placement is Placement.SERVER:
            return await call()
        what = self._what or (activity.info().activity_type if activity.in_activity() else "the call")
        notes = Notes(self._rule)
        loop: Retrying[T] = Retrying(what, self._rule, on_missed=notes.missed, gate=self._gate(what))
        return await loop.run(lambda attempt: notes.call(attempt, call))

    def _gate(self, what: str) -> Gate | None:
        running = asyncio.get_running_loop()
        return _gates.setdefault(running, Gates()).of(what, self._rule)


def _checked(rule: Retry) -> Retry:
    """The rule, with its words as members of their enumerations. Raises ConfigError."""

    def is_number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0

    seconds = [getattr(rule, one.name) for one in fields(rule) if one.type == "float"]
    if not all(map(is_number, seconds)):
        raise ConfigError("A Retry's times are numbers of seconds, 0 or more.")
    if not all(isinstance(one, int) for one in (rule.max_tries, rule.hedge, rule.slow_after)):
        raise ConfigError("A Retry's max_tries, hedge and slow_after are whole numbers.")
    if rule.retry_share is not None and not is_number(rule.retry_share):
        raise ConfigError("A Retry's retry_share is a number, 0 or more, or None.")
    try:
        return replace(rule, placement=Placement(rule.placement), jitter=Jitter(rule.jitter))
    except ValueError as error:
        raise ConfigError(f"A Retry's placement is server or activity, and its jitter none or full: {error}.") from None
