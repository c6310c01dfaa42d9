"""What it costs to record a replay: its time against the bare Replayer's under the same runner, and its memory."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from temporalio.api.history.v1 import History
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from trellis.bench.loop import Loop
from trellis.bench.made_history import MadeHistory
from trellis.errors import TrellisError
from trellis.replay import Recording, replay
from trellis.sandbox import RUNNER

# It runs in processes of its own: what an earlier replay freed would hide what this one needs.
_MEASURE_MEMORY = """
import resource, sys
from temporalio.api.history.v1 import History
from temporalio.client import WorkflowHistory
from trellis.bench import replay
held = History.FromString(open(sys.argv[1], "rb").read())
history = WorkflowHistory("made", held.events)
kept = replay.bare([history]) if sys.argv[2] == "bare" else replay.recorded([history], lines=True)
try:
    # Not ru_maxrss where this exists: on Linux it counts what the parent had when it started this process.
    [peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    print(int(peak) / 2**10)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def loop_history(events: int) -> WorkflowHistory:
    """A history of about so many events: one activity after the other, each with a workflow task of its own."""
    calls = max(1, (events - 5) // 6)
    made = MadeHistory(Loop.__name__, calls)
    made.task()
    total = 0
    for number in range(calls):
        scheduled = made.activity("call", {"number": number, "customer": "a customer", "items": ["book", "pen"]})
        made.answer(scheduled, number % 7)
        total += number % 7
        made.task()
    made.complete(total)
    return made.history


def bare(histories: Iterable[WorkflowHistory]) -> None:
    """Replay them with the SDK's Replayer alone. Raises TrellisError for one that does not fit."""
    asyncio.run(_bare(histories))


async def _bare(histories: Iterable[WorkflowHistory]) -> None:
    replayer = Replayer(workflows=_classes(), workflow_runner=RUNNER)
    for history in histories:
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
        if result.replay_failure is not None:
            raise TrellisError(f"The history of {history.workflow_id} does not replay: {result.replay_failure}")


def recorded(
    histories: Iterable[WorkflowHistory], *, lines: bool, listener: Callable[[Recording], None] | None = None
) -> list[Recording]:
    """Record them. Raises TrellisError for one that does not fit."""
    found = []
    for history in histories:
        found.append(replay(history, _classes(), lines=lines, family=False, listener=listener))
        if found[-1].trouble:
            raise TrellisError(f"The history of {history.workflow_id} does not replay: {found[-1].trouble}")
    return found


def _classes() -> list[type]:
    from trellis.workflows.order import OrderWorkflow
    from trellis.workflows.shipping import ShippingWorkflow

    return [Loop, OrderWorkflow, ShippingWorkflow]


def compare(histories: Sequence[WorkflowHistory], rounds: int, tick: Callable[[], None]) -> dict[str, Any]:
    """{events, steps, replay_s, replay_with_lines_s, bare_s, ratio, ratio_with_lines, cpu_ratio,
    cpu_ratio_with_lines}: medians of alternating rounds.

    The order within a round changes, so that none always comes first. The ratios of CPU time say the same on a machine
    that does other work too.
    """
    ways: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(histories),
        "plain": lambda: recorded(histories, lines=False),
        "lines": lambda: recorded(histories, lines=True),
    }
    steps = sum(len(each.steps) for each in ways["lines"]())
    bare(histories)
    times: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways)
        for name in names[number % 3 :] + names[: number % 3]:
            began, used = time.perf_counter(), time.process_time()
            ways[name]()
            times[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - used)
        tick()

    def ratio(measured: dict[str, list[float]], name: str) -> float:
        return round(statistics.median(a / b for a, b in zip(measured[name], measured["bare"], strict=True)), 3)

    return {
        "events": sum(len(history.events) for history in histories),
        "steps": steps,
        "replay_s": round(statistics.median(times["plain"]), 3),
        "replay_with_lines_s": round(statistics.median(times["lines"]), 3),
        "bare_s": round(statistics.median(times["bare"]), 3),
        "ratio": ratio(times, "plain"),
        "ratio_with_lines": ratio(times, "lines"),
        "cpu_ratio": ratio(cpu, "plain"),
        "cpu_ratio_with_lines": ratio(cpu, "lines"),
    }


def first_page(history: WorkflowHistory) -> tuple[float, float]:
    """(seconds until the first steps of a recording can be shown, seconds until its end)."""
    pages: list[float] = []
    began = time.perf_counter()
    recorded([history], lines=True, listener=lambda _: pages.append(time.perf_counter() - began))
    return pages[0] if pages else float("nan"), time.perf_counter() - began


def memory_added(history: WorkflowHistory) -> float:
    """How much higher the peak memory is with a recording, lines included, than with the bare Replayer [MB]."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "history"
        file.write_bytes(History(events=history.events).SerializeToString())
        peaks = {way: _peak(file, way) for way in ("bare", "recorded")}
    return peaks["recorded"] - peaks["bare"]


def _peak(file: Path, way: str) -> float:
    done = subprocess.run([sys.executable, "-c", _MEASURE_MEMORY, str(file), way], capture_output=True, text=True)
    if done.returncode != 0:
        raise TrellisError(f"The measuring process failed: {done.stderr.strip()[-300:]}")
    return float(json.loads(done.stdout))


def run(events: int, rounds: int, tick: Callable[[], None]) -> dict[str, Any]:
    """What `compare` gives for a made history, and {memory_added_mb, first_page_s, whole_s}."""
    history = loop_history(events)
    found = compare([history], rounds, tick)
    added = memory_added(history)
    tick()
    page, whole = first_page(history)
    return {
        **found,
        "memory_added_mb": round(added, 1),
        "first_page_s": round(page, 3),
        "whole_s": round(whole, 3),
    }
