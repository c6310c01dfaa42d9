"""Replay histories with one version of a module, in a process of its own: `python -m trellis.replay.check.inside JOB`.

The process is new, so it reads the module as it is on disk now, and a module that ends or hangs its process harms
nobody else. It prints JSON, one line for each history.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

from trellis.errors import BadInput, TrellisError
from trellis.replay import replay
from trellis.replay.check.compare import LIMITS, finding
from trellis.replay.check.paths import workflow_type
from trellis.replay.errors import in_one_line
from trellis.replay.modules import classes_of
from trellis.replay.payloads import Payloads
from trellis.replay.sdk import workflow_name
from trellis.replay.sources import load_file


@dataclass(frozen=True)
class Job:
    """What to replay: the histories' JSON files, with the workflows of `module`. `converter`: the data converter, as
    "module:name"."""

    module: str
    histories: tuple[str, ...]
    converter: str | None = None


def classes_by_type(module: str) -> dict[str, type]:
    """The workflow classes of a module, its own and those that it imports, by workflow type. Raises TrellisError."""
    return {name: each for each in classes_of(module) if (name := workflow_name(each))}


def converter_of(named: str | None) -> DataConverter:
    """The data converter that "module:name" names. Raises BadInput."""
    if named is None:
        return DataConverter.default
    module, _, name = named.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise BadInput(f"The data converter {named} cannot be imported ({in_one_line(error)}).") from None
    if not isinstance(found, DataConverter):
        raise BadInput(f"{named} is no DataConverter. Name one as module:name.")
    return found


def answers() -> IO[str]:
    """Where the parent reads. What the module prints goes to stderr from now on."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def say(out: IO[str], **what: Any) -> None:
    print(json.dumps(what), file=out, flush=True)


def main() -> None:
    out = answers()
    # The SDK logs each break; the finding says it in words.
    logging.disable(logging.ERROR)
    try:
        _replay_all(Job(**json.loads(Path(sys.argv[1]).read_text("utf-8"))), out)
    except TrellisError as error:
        say(out, error=str(error))
    # Temporal's threads may call into an interpreter that is being taken down.
    out.flush()
    os._exit(0)


def _replay_all(job: Job, out: IO[str]) -> None:
    classes = classes_by_type(job.module)
    converter = converter_of(job.converter)
    say(out, types=sorted(classes))
    for file in job.histories:
        history = load_file(file).history
        known = classes.get(workflow_type(history))
        if known is None:
            say(out, skipped=True)
            continue
        try:
            say(out, **replayed(history, known, converter))
        except TrellisError as error:
            # Such as a history of another SDK. The others can still be checked.
            say(out, skipped=True, trouble=str(error))


def replayed(history: WorkflowHistory, workflow: type, converter: DataConverter) -> dict[str, Any]:
    """What the replay of one history says, as the parent reads it. Raises TrellisError."""
    recording = replay(history, [workflow], data_converter=converter, family=False, limits=LIMITS)
    found = asyncio.run(finding(recording, history.events, Payloads(converter, LIMITS)))
    ran = {(line.file, line.line) for step in recording.steps for line in step.lines or ()}
    cut = any(step.lines_cut for step in recording.steps)
    return {"finding": asdict(found), "ran": sorted(ran), "cut": cut, "trouble": recording.trouble}


if __name__ == "__main__":
    main()
