"""Propose a patch that keeps old histories, after it has kept them and after its new code has run."""

from __future__ import annotations

import asyncio
import difflib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trellis.errors import StackError, TrellisError
from trellis.replay.check import jobs
from trellis.replay.check.patching import CannotPatch, Patch, inserted, patch_id
from trellis.replay.check.report import BREAKS, Finding, Proposal
from trellis.replay.check.sources import Sources, copied, environment

if TYPE_CHECKING:
    from trellis.config import Settings

_MOST_INSERTIONS = 8

Texts = dict[Path, str]


class NotProposed(Exception):
    """No patch is proposed. The message says why, in a sentence."""


@dataclass(frozen=True)
class Case:
    """What a patch must keep: the old histories that were replayed (their files), and the one with which its new code
    is run. `findings`: what the code without a patch said to each history."""

    sources: Sources
    histories: Sequence[str]
    findings: Sequence[Finding]
    example: str
    converter: str | None = None


def proposed(case: Case, before: Mapping[Path, str | None] | None, server: Callable[[], str]) -> Proposal:
    """The patch. `server` gives the address of a throw-away Temporal. Raises NotProposed, TrellisError."""
    new = case.sources.texts()
    with tempfile.TemporaryDirectory(prefix="trellis-patched-") as folder:
        scratch = Path(folder) / "code"
        if before is None:
            id_ = patch_id(case.sources.files[0].stem, *new.values())
            texts = _insertions(case, new, id_, scratch)
        else:
            changed = {file: old for file, old in before.items() if old is not None and old != new[file]}
            id_ = patch_id(case.sources.files[0].stem, *new.values())
            texts = _patches(changed, new, id_)
            _keeps(case, texts, scratch)
        words = _new_run(case, id_, scratch, server)
    diff = "".join(_diff(case.sources, file, new[file], text) for file, text in texts.items())
    return Proposal(diff, len(case.histories), words)


def _patches(changed: Mapping[Path, str], new: Texts, id_: str) -> Texts:
    """The new texts with what differs from the old ones under a patch."""
    found: Texts = {}
    reasons = []
    for file, old in changed.items():
        try:
            found[file] = Patch(old, new[file], id_).text
        except (CannotPatch, SyntaxError) as error:
            reasons.append(f"{file.name}: {error}")
    if not found:
        why = "; ".join(reasons) or "the old source is the same as the new one"
        raise NotProposed(f"No patch is proposed: {why}.")
    return found


def _insertions(case: Case, new: Texts, id_: str, scratch: Path) -> Texts:
    """The new texts with each statement under the patch that asked where the histories have something else.

    Without the old source it is a guess that the statement was inserted. The replays tell whether it is right.
    """
    texts: Texts = {}
    findings = case.findings
    guess = "Without --before, only insertions can be put under a patch, and this change is none."
    for _ in range(_MOST_INSERTIONS):
        broken = next((one for one in findings if one.verdict == BREAKS), None)
        if broken is None:
            return texts
        file = _file(case.sources, scratch, broken.file)
        if file is None or broken.line is None:
            raise NotProposed(f"No patch is proposed. {guess}")
        try:
            texts[file] = inserted(texts.get(file, new[file]), broken.line, id_)
        except (CannotPatch, SyntaxError):
            raise NotProposed(f"No patch is proposed. {guess}") from None
        copied(case.sources, scratch, texts)
        _, replays = jobs.replayed(case.sources.module, case.histories, environment(scratch), converter=case.converter)
        found = [one.finding for one in replays if one.finding is not None]
        if found == findings:
            break
        findings = found
    raise NotProposed(f"No patch is proposed. {guess}")


def _file(sources: Sources, scratch: Path, named: str | None) -> Path | None:
    """The source file of a finding, which may name the file in the copy."""
    if named is None:
        return None
    for file in sources.files:
        if Path(named).resolve() in (file.resolve(), (scratch / file.relative_to(sources.root)).resolve()):
            return file
    return None


def _keeps(case: Case, texts: Texts, scratch: Path) -> None:
    """Raises NotProposed if an old history breaks with these texts."""
    copied(case.sources, scratch, texts)
    _, replays = jobs.replayed(case.sources.module, case.histories, environment(scratch), converter=case.converter)
    for one in replays:
        if one.finding is not None and one.finding.verdict == BREAKS:
            raise NotProposed(
                "No patch is proposed: what differs was put under workflow.patched, and a history still breaks at "
                f"event {one.finding.event} (history: {one.finding.history}; code: {one.finding.code})."
            )


def _new_run(case: Case, id_: str, scratch: Path, server: Callable[[], str]) -> str:
    """Run the new code. Returns how it went. Raises NotProposed."""
    try:
        address = server()
    except StackError as error:
        raise NotProposed(f"A patch keeps the old histories, but its new code was not run: {error}") from None
    job = {
        "module": case.sources.module, "history": case.example, "address": address, "patch": id_,
        "converter": case.converter,
    }  # fmt: skip
    try:
        [answer] = jobs.run("trial", job, environment(scratch))
    except TrellisError as error:
        raise NotProposed(f"A patch keeps the old histories, but its new code was not run: {error}") from None
    if not answer["ok"]:
        raise NotProposed(f"No patch is proposed: it keeps the old histories, but in a trial {answer['words']}.")
    return str(answer["words"])


def _diff(sources: Sources, file: Path, new: str, text: str) -> str:
    name = file.relative_to(sources.root).as_posix()
    lines = difflib.unified_diff(
        new.splitlines(keepends=True), text.splitlines(keepends=True), f"a/{name}", f"b/{name}"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


@contextmanager
def throwaway(settings: Settings) -> Iterator[Callable[[], str]]:
    """A function that gives the address of a Temporal server of its own. It is started when it is first asked for, and
    ended and deleted after the block. The function raises StackError."""
    from trellis.runtime import workspace
    from trellis.stack import temporal

    with workspace(settings) as own:
        started: list[str] = []

        def address() -> str:
            if not started:
                own.home.mkdir(parents=True, exist_ok=True)
                started.append(asyncio.run(temporal.up(own)).address)
            return started[0]

        yield address
