"""Run this package's helper processes, and read what they print."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHistory

from trellis.errors import TrellisError
from trellis.replay.check.report import Finding

PATIENCE = 90.0
"""How long a helper may say nothing [s]: the import of the module, or one replay."""


@dataclass(frozen=True)
class Replayed:
    """What the replay of one history said; `ran`: the lines that it ran, as (file, line). None in place of a finding:
    the module does not define the history's workflow type, or the history cannot be replayed (`trouble` says why)."""

    finding: Finding | None
    ran: frozenset[tuple[str, int]] = frozenset()
    cut: bool = False
    trouble: str = ""


@contextmanager
def kept(histories: Sequence[WorkflowHistory]) -> Iterator[list[str]]:
    """The histories as files, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="trellis-check-") as folder:
        files = []
        for number, history in enumerate(histories):
            file = Path(folder) / f"{number:05d}.json"
            file.write_text(json.dumps({"workflowId": history.workflow_id} | json.loads(history.to_json())), "utf-8")
            files.append(str(file))
        yield files


def replayed(
    module: str,
    files: Sequence[str],
    environment: Mapping[str, str],
    *,
    converter: str | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[list[str], list[Replayed]]:
    """(the workflow types of the module, what each replay said). Raises TrellisError: the module cannot be used."""
    job = {"module": module, "histories": list(files), "converter": converter}
    types: list[str] = []
    found: list[Replayed] = []
    for answer in run("inside", job, environment):
        if "types" in answer:
            types = answer["types"]
            continue
        if answer.get("skipped"):
            found.append(Replayed(None, trouble=answer.get("trouble", "")))
        else:
            ran = frozenset((file, line) for file, line in answer["ran"])
            found.append(Replayed(Finding(**answer["finding"]), ran, answer["cut"], answer["trouble"]))
        tick()
    if len(found) != len(files) or not types:
        raise TrellisError(f"The process that replayed {module} ended after {len(found)} of {len(files)} histories.")
    return types, found


def run(helper: str, job: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What a helper prints, line by line. Raises TrellisError with its sentence, or with its last words."""
    with tempfile.TemporaryDirectory(prefix="trellis-check-") as folder:
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(job), "utf-8")
        with (Path(folder) / "stderr").open("w+") as words:
            process = subprocess.Popen(
                [sys.executable, "-m", f"trellis.replay.check.{helper}", str(file)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words, text=True, env=dict(environment),
            )  # fmt: skip
            _running.add(process)
            try:
                assert process.stdout is not None
                for line in _lines(process):
                    answer = json.loads(line)
                    if "error" in answer:
                        raise TrellisError(answer["error"])
                    yield answer
                if process.wait(PATIENCE) != 0:
                    words.seek(0)
                    last = " ".join((words.read().strip().splitlines() or ["it said nothing"])[-1].split())[:300]
                    raise TrellisError(f"The process that runs {job['module']} ended with an error ({last}).")
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                _running.discard(process)
                if process.stdout is not None:
                    process.stdout.close()


_running: set[subprocess.Popen[str]] = set()


def stop() -> None:
    """End the helpers of this process. Whoever waits for one gets a TrellisError."""
    for process in list(_running):
        process.kill()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """The lines of a process that must say something within PATIENCE seconds. Raises TrellisError."""
    import threading

    assert process.stdout is not None
    while True:
        # A read from a pipe cannot be given a time limit on every system; ending the process ends the read.
        guard = threading.Timer(PATIENCE, process.kill)
        guard.start()
        try:
            line = process.stdout.readline()
        finally:
            hung = not guard.is_alive()
            guard.cancel()
        if hung and not line:
            raise TrellisError(f"The module did not come to an end within {PATIENCE:.0f} s, so it was not checked.")
        if not line:
            return
        yield line
