"""Check changed workflow code against the histories that are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from temporalio.client import WorkflowHistory

from trellis.errors import BadInput
from trellis.replay.check import asking, jobs
from trellis.replay.check.jobs import Replayed
from trellis.replay.check.paths import Group, grouped, is_open
from trellis.replay.check.proposing import Case, NotProposed, proposed, throwaway
from trellis.replay.check.report import BREAKS, Checked, Finding, Report
from trellis.replay.check.sources import Sources, before, environment, find
from trellis.replay.check.unrun import changed_lines, unrun_lines
from trellis.replay.sources import load
from trellis.threads import in_a_thread

if TYPE_CHECKING:
    from trellis.config import Settings


def check(
    module: str | Path | ModuleType | type,
    *,
    query: str | None = None,
    histories: str | Path | None = None,
    before: str | Path | None = None,
    propose: bool = True,
    converter: str | None = None,
    most_open: int = 1000,
    most_closed: int = 2000,
    settings: Settings | None = None,
    server: Callable[[], str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Report:
    """What becomes of the workflows that are there if this module, as it is on disk now, is deployed.

    Replays every open workflow and one closed history of each distinct path. A path fits, or breaks, or fits with
    another input. Blocks. The module is imported and replayed in a new process, under the sandbox's rules: they guard
    against accidents, not against malice.

    module: a dotted name, the path of a Python file, a module, or a workflow class (then its module).
    query: a visibility query; without it, all workflows of the types that the module defines, on this workspace's
        server or on the one that the settings name.
    histories: a folder of histories as JSON files, or one file, in place of a server.
    before: the old source: a revision of git, or a folder. With it the report tells the changed lines that no history
        ran, and a patch can be proposed for any change; without it only for insertions.
    propose: look for a patch that keeps the old histories. It is tried on a throw-away server, and never applied.
    converter: the data converter of the histories, as "module:name".
    most_open, most_closed: of more workflows than this a random sample is read, and the report's notes say so.
    server: gives the address of a throw-away Temporal, in place of a new one.
    Raises TrellisError: no such module, one that fails on import or has no workflow, no histories, a query that the
    server does not understand, no server.
    """
    if query is not None and histories is not None:
        raise BadInput("Give a query or a folder of histories, not both.")
    if isinstance(module, ModuleType):
        module = module.__name__
    elif isinstance(module, type):
        module = module.__module__
    if settings is None:
        # Here and below: the helper processes import this package, and need neither settings nor servers.
        from trellis import config

        settings = config.load()
    checking = _Check(find(str(module)), converter, settings, tick)
    old = None if before is None else str(before)
    bounds = most_open, most_closed
    return _done(in_a_thread(lambda: checking.run(query, histories, old, propose, server, bounds), "trellis-check"))


class _Check:
    """One check of one module."""

    def __init__(self, sources: Sources, converter: str | None, settings: Settings, tick: Callable[[], None]) -> None:
        self._sources = sources
        self._converter = converter
        self._settings = settings
        self._tick = tick
        self._environment = environment(sources.root)

    def run(
        self,
        query: str | None,
        folder: str | Path | None,
        source: str | None,
        propose: bool,
        server: Callable[[], str] | None,
        most: tuple[int, int],
    ) -> Report:
        old = None if source is None else before(self._sources, source)
        read = self._loaded(folder) if folder is not None else self._asked(query, most)
        groups = grouped(read.histories)
        numbers = [number for group in groups for number in group.to_replay()]
        with jobs.kept([read.histories[number] for number in numbers]) as files, ExitStack() as ended:
            replays = self._replayed(files)
            said = dict(zip(numbers, replays, strict=True))
            paths = tuple(path for group in groups for path in self._paths(group, read.histories, said))
            kept = [
                (number, file, one.finding)
                for number, file, one in zip(numbers, files, replays, strict=True)
                if one.finding is not None
            ]
            breaking = [(number, file) for number, file, finding in kept if finding.verdict == BREAKS]
            notes = [*read.notes, *_troubles(replays)]
            proposal = None
            if breaking and propose:
                # A closed one shows the whole way.
                _, example = min(breaking, key=lambda each: _fitness(read.histories[each[0]]))
                case = Case(
                    self._sources, [file for _, file, _ in kept], [one for _, _, one in kept], example, self._converter
                )
                try:
                    proposal = proposed(case, old, server or ended.enter_context(throwaway(self._settings)))
                except NotProposed as why:
                    notes.append(str(why))
        return Report(
            self._sources.module,
            len(read.histories) - sum(path.histories for path in paths),
            paths,
            sum(is_open(read.histories[number]) for number, _ in breaking),
            None if old is None else tuple(self._unrun(old, replays)),
            proposal,
            tuple(notes),
        )

    def _replayed(self, files: Sequence[str]) -> list[Replayed]:
        module, converter = self._sources.module, self._converter
        return jobs.replayed(module, files, self._environment, converter=converter, tick=self._tick)[1]

    def _loaded(self, folder: str | Path) -> asking.Read:
        unreadable: list[str] = []
        found = load(folder, unreadable)
        return asking.Read([one.history for one in found], [*(one.note for one in found if one.note), *unreadable])

    def _asked(self, query: str | None, most: tuple[int, int]) -> asking.Read:
        types: list[str] = []
        if query is None:
            # A module that cannot be imported is told before the server is asked.
            types, _ = jobs.replayed(self._sources.module, [], self._environment, converter=self._converter)
            query = asking.query_of(types)

        from trellis import stack

        async def read() -> asking.Read:
            client = await stack.connect(stack.temporal_target(self._settings))
            found = await asking.read(client, query, most_open=most[0], most_closed=most[1])
            if not found.histories:
                raise BadInput(f"No workflow in namespace {client.namespace} matches {query}: nothing can be checked.")
            return found

        return asyncio.run(read())

    def _paths(self, group: Group, histories: Sequence[WorkflowHistory], said: Mapping[int, Replayed]) -> list[Checked]:
        """What to tell of one path: one entry, or several where its open workflows differ in what they say.

        Nothing of histories that were not replayed, because of their type or of what they hold.
        """
        members: dict[Finding, list[int]] = {}
        for number in group.to_replay():
            if (finding := said[number].finding) is not None:
                told_by = group.closed if number in group.closed else [number]
                members.setdefault(finding, []).extend(told_by)
        return [
            Checked(
                group.type, len(numbers), sum(is_open(histories[number]) for number in numbers),
                histories[numbers[0]].workflow_id, replace(finding, file=self._name(finding.file)),
            )
            for finding, numbers in members.items()
        ]  # fmt: skip

    def _name(self, file: str | None) -> str | None:
        """A source file's name below the root; another file's whole name."""
        if file is None or not Path(file).is_relative_to(self._sources.root):
            return file
        return Path(file).relative_to(self._sources.root).as_posix()

    def _unrun(self, old: Mapping[Path, str | None], replays: Sequence[Replayed]) -> list[tuple[str, int]]:
        ran: dict[Path, set[int]] = {}
        for file, line in {each for one in replays for each in one.ran}:
            ran.setdefault(Path(file).resolve(), set()).add(line)
        found = []
        for source, text in self._sources.texts().items():
            if text != old[source]:
                changed = changed_lines(old[source], text)
                try:
                    lines = unrun_lines(text, changed, ran.get(source.resolve(), set()))
                except SyntaxError:
                    # It is imported somewhere, but not by this module's workflows.
                    continue
                found += [(source.relative_to(self._sources.root).as_posix(), line) for line in lines]
        return found


def _fitness(history: WorkflowHistory) -> tuple[bool, int]:
    return is_open(history), -len(history.events)


def _troubles(replays: Sequence[Replayed]) -> list[str]:
    told = [one for one in replays if one.trouble and (one.finding is None or one.finding.verdict != BREAKS)]
    found = list(dict.fromkeys(one.trouble for one in told))
    if any(one.cut for one in replays):
        found.append("A replay ran more lines than are kept, so a line that is told as never run may have run.")
    return found


def _done(work: Future[Report]) -> Report:
    """Wait for it. Python 3.11 takes a thread for ended once a `join` was interrupted, and a future does not."""
    try:
        return work.result()
    except BaseException:
        if not work.done():
            # Interrupted. Without its helper the check ends at once, and it ends the throw-away server.
            jobs.stop()
            wait([work], 30)
        raise
