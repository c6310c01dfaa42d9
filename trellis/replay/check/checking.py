"""Check changed workflow code against the histories that are there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from temporalio.client import WorkflowHistory

from trellis import config, stack
from trellis.errors import BadInput
from trellis.replay.check import asking, jobs
from trellis.replay.check.jobs import Replayed
from trellis.replay.check.paths import Group, grouped, is_open, workflow_type
from trellis.replay.check.proposing import Case, NotProposed, proposed, throwaway
from trellis.replay.check.report import BREAKS, Checked, Finding, Report
from trellis.replay.check.sources import Sources, before, environment, find
from trellis.replay.check.unrun import changed_lines, unrun_lines
from trellis.replay.sources import load


def check(
    module: str | ModuleType | type,
    *,
    query: str | None = None,
    histories: str | Path | None = None,
    before: str | Path | None = None,
    propose: bool = True,
    converter: str | None = None,
    most_open: int = 1000,
    most_closed: int = 2000,
    settings: config.Settings | None = None,
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
    checking = _Check(find(module), converter, settings or config.load(), tick)
    return _in_a_thread(
        lambda: checking.run(query, histories, None if before is None else str(before), propose, server,
                             (most_open, most_closed))
    )  # fmt: skip


class _Check:
    """One check of one module."""

    def __init__(
        self, sources: Sources, converter: str | None, settings: config.Settings, tick: Callable[[], None]
    ) -> None:
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
        # First without histories: a module that cannot be imported is told before anybody asks a server.
        types, _ = jobs.replayed(self._sources.module, [], self._environment, converter=self._converter)
        read = self._loaded(folder) if folder is not None else asyncio.run(self._asked(query, types, most))
        mine = [one for one in read.histories if workflow_type(one) in types]
        groups = grouped(mine)
        numbers = [number for group in groups for number in group.to_replay()]
        chosen = [mine[number] for number in numbers]
        with jobs.kept(chosen) as files, ExitStack() as ended:
            _, replays = jobs.replayed(
                self._sources.module, files, self._environment, converter=self._converter, tick=self._tick
            )
            said = dict(zip(numbers, replays, strict=True))
            paths = [path for group in groups for path in _paths(group, mine, said)]
            breaking = [number for number in numbers if _finding(said[number]).verdict == BREAKS]
            notes = [*read.notes, *_troubles(replays)]
            proposal = None
            if breaking and propose:
                # A closed one shows the whole way.
                example = min(breaking, key=lambda number: (is_open(mine[number]), -len(mine[number].events)))
                case = Case(
                    self._sources, files, [_finding(one) for one in replays], files[numbers.index(example)],
                    self._converter,
                )  # fmt: skip
                try:
                    proposal = proposed(case, old, server or ended.enter_context(throwaway(self._settings)))
                except NotProposed as why:
                    notes.append(str(why))
        return Report(
            self._sources.module,
            len(read.histories) - len(mine),
            tuple(paths),
            sum(is_open(mine[number]) for number in breaking),
            None if old is None else tuple(self._unrun(old, replays)),
            proposal,
            tuple(notes),
        )

    def _loaded(self, folder: str | Path) -> asking.Read:
        found = load(folder)
        return asking.Read([one.history for one in found], [one.note for one in found if one.note])

    async def _asked(self, query: str | None, types: Sequence[str], most: tuple[int, int]) -> asking.Read:
        client = await stack.connect(stack.temporal_target(self._settings))
        words = asking.query_of(types) if query is None else query
        read = await asking.read(client, words, most_open=most[0], most_closed=most[1])
        if not read.histories:
            raise BadInput(f"No workflow in namespace {client.namespace} matches {words}: there is nothing to check.")
        return read

    def _unrun(self, old: Mapping[Path, str | None], replays: Sequence[Replayed]) -> list[tuple[str, int]]:
        ran: dict[Path, set[int]] = {}
        for file, line in {each for one in replays for each in one.ran}:
            ran.setdefault(Path(file).resolve(), set()).add(line)
        found = []
        for file, text in self._sources.texts().items():
            if text != old[file]:
                changed = changed_lines(old[file], text)
                lines = unrun_lines(text, changed, ran.get(file.resolve(), set()))
                found += [(file.relative_to(self._sources.root).as_posix(), line) for line in lines]
        return found


def _finding(one: Replayed) -> Finding:
    assert one.finding is not None, "only histories of known types are replayed"
    return one.finding


def _paths(group: Group, histories: Sequence[WorkflowHistory], said: Mapping[int, Replayed]) -> list[Checked]:
    """What to tell of one path: one entry, or several where its open workflows differ in what they say."""
    members: dict[Finding, list[int]] = {}
    if group.closed:
        members.setdefault(_finding(said[group.closed[0]]), []).extend(group.closed)
    for number in group.open:
        members.setdefault(_finding(said[number]), []).append(number)
    return [
        Checked(
            group.type, len(numbers), sum(is_open(histories[number]) for number in numbers),
            histories[numbers[0]].workflow_id, finding,
        )
        for finding, numbers in members.items()
    ]  # fmt: skip


def _troubles(replays: Sequence[Replayed]) -> list[str]:
    found = list(dict.fromkeys(one.trouble for one in replays if one.trouble and _finding(one).verdict != BREAKS))
    if any(one.cut for one in replays):
        found.append("A replay ran more lines than are kept, so a line that is told as never run may have run.")
    return found


def _in_a_thread(work: Callable[[], Report]) -> Report:
    """A notebook's kernel already runs an event loop in this thread."""
    answer: list[Report] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="trellis-check", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answer[0]
