"""Invariants of your own: functions over frames, checked beside the built-in ones.

    from trellis.audit import invariant

    @invariant("no trip without a hotel")
    def check(flights, workflows):
        booked = flights.loc[flights["activity_type"] == "book_hotel", "workflow_id"]
        return workflows[~workflows["order_id"].isin(booked)]

An argument's name says which frame it gets:

    orders, events, attempts, payments    the ledger, as `insight.orders` and the others return it
    flights                               the book of attempts, as `insight.flights` returns it
    history, workflows                    Temporal's histories and their runs, as `insight.history` and
                                          `insight.history_workflows` return them

The answer says what is wrong: a frame with the bad rows (its column order_id, workflow_id, payment_id or run_id, or
else its index, names what is wrong; a column `sentence` says what), a list of ids, or True where all is well and False
where it is not, alone or with a sentence: `return False, "two of three trips have no hotel"`.

A check that raises, or answers something else, is broken: that is reported, and the others go on. A check all of whose
frames are empty proves nothing. Frames are read whole.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from temporalio.client import Client

from trellis.audit.report import KEPT, Broken, Report, Violation
from trellis.errors import BadInput, TrellisError

if TYPE_CHECKING:
    import pandas as pd

F = TypeVar("F", bound=Callable[..., Any])

FRAMES = ("orders", "events", "attempts", "payments", "flights", "history", "workflows")
"""The names that an invariant's arguments can have."""

_MARK = "__trellis_invariant__"
_IDS = ("order_id", "workflow_id", "payment_id", "run_id")
_SAYS = "sentence"
_COLUMNS = 20
_EVERYTHING = 'StartTime > "2000-01-01T00:00:00Z"'


@dataclass(frozen=True)
class Invariant:
    """A check with the sentence that names it, and the frames that it takes."""

    name: str
    check: Callable[..., Any]
    frames: tuple[str, ...]


def invariant(name: str) -> Callable[[F], F]:
    """Mark a function as an invariant. `name` says what must hold. The module's docstring says what it takes and gives.

    Raises BadInput in one sentence where the function cannot be one.
    """
    if not isinstance(name, str) or not name.strip():
        raise BadInput('Say what must hold: @invariant("no trip without a hotel").')

    def mark(check: F) -> F:
        setattr(check, _MARK, Invariant(name.strip(), check, _frames(check)))
        return check

    return mark


def _frames(check: Callable[..., Any]) -> tuple[str, ...]:
    called = getattr(check, "__name__", str(check))
    if inspect.iscoroutinefunction(check):
        raise BadInput(f"The invariant {called} is a coroutine: write it as a plain function over frames.")
    parameters = inspect.signature(check).parameters.values()
    names = [one.name for one in parameters if one.default is inspect.Parameter.empty]
    known = ", ".join(FRAMES)
    if strange := [name for name in names if name not in FRAMES]:
        raise BadInput(
            f"The invariant {called} asks for {strange[0]!r}, and there is no such frame. There are {known}."
        )
    if not names:
        raise BadInput(f"The invariant {called} asks for no frame. There are {known}.")
    return tuple(names)


def invariants_of(module: str | ModuleType) -> tuple[Invariant, ...]:
    """The invariants of a module, in the order of its text. `module`: a Python file, a dotted name, or the module.

    Raises BadInput in one sentence: there is none, it fails on import, it holds no invariant, two have one name.
    """
    loaded = module if isinstance(module, ModuleType) else _imported(module)
    found = [one for value in vars(loaded).values() if isinstance(one := getattr(value, _MARK, None), Invariant)]
    if not found:
        raise BadInput(f"The module {loaded.__name__} has no invariant: no function in it has @invariant(...).")
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"The module {loaded.__name__} has two invariants called {twice[0]!r}.")
    return tuple(found)


def _imported(name: str) -> ModuleType:
    try:
        if name.endswith(".py"):
            return _of_file(Path(name).resolve())
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    except TrellisError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | MemoryError):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise BadInput(f"There is no module {name}. Give its dotted name or its file.") from None
        raise BadInput(f"The module {name} fails on import ({_line(error)}).") from None


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"There is no file {path.name}.")
    # Under a name of its own, so that a file called checks.py does not stand for an installed module of that name.
    spec = importlib.util.spec_from_file_location(f"trellis_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path.name} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    module.__name__ = path.stem
    return module


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class Frames:
    """The frames that invariants ask for, each read once. It only reads.

    `database_url`: where the ledger and the book of attempts are. `query`: a visibility query for history and
    workflows; empty: all workflows.
    """

    def __init__(self, client: Client, database_url: str, query: str = "") -> None:
        self._client = client
        self._url = database_url
        self._query = query
        self._read: dict[str, pd.DataFrame] = {}

    async def get(self, name: str) -> pd.DataFrame:
        """One frame. Raises TrellisError where it cannot be read."""
        if name not in self._read:
            self._read[name] = await self._readers()[name]()
        return self._read[name]

    def _readers(self) -> dict[str, Callable[[], Awaitable[pd.DataFrame]]]:
        # Temporal's SDK is enough for the built-in invariants. pandas is imported for those who ask for frames.
        from trellis import insight

        def of_database(read: Callable[..., Any], **more: Any) -> Callable[[], Awaitable[pd.DataFrame]]:
            return lambda: asyncio.to_thread(read, self._url, **more)

        ledger = {name: of_database(getattr(insight, name)) for name in ("orders", "events", "attempts", "payments")}
        book = of_database(_flights, namespace=self._client.namespace)
        return {**ledger, "flights": book, "history": self._history, "workflows": self._workflows}

    async def _history(self) -> pd.DataFrame:
        from trellis.insight.history import PartialHistory, download
        from trellis.insight.history.frames import made

        query = self._query or _EVERYTHING
        if not (await self._client.count_workflows(query)).count:
            return made([])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PartialHistory)
            return await download(self._client, query=query, sample=None)

    async def _workflows(self) -> pd.DataFrame:
        from trellis.insight.history import history_workflows

        return history_workflows(await self.get("history"))


def _flights(url: str, namespace: str) -> pd.DataFrame:
    from trellis import insight

    # Settling would write.
    return insight.flights(url, namespace=namespace, settle=False)


async def check_own(own: Sequence[Invariant], frames: Frames, report: Report, tick: Callable[[int], None]) -> None:
    """Check these invariants and add what was found to the report. No check stops the others."""
    for one in own:
        try:
            given = {name: await frames.get(name) for name in one.frames}
        except Exception as why:
            report.broken.append(Broken(one.name, str(why) if isinstance(why, TrellisError) else _line(why)))
            continue
        report.own += 1
        if not any(len(frame) for frame in given.values()):
            report.nothing_to_check.append(one.name)
            continue
        found = await asyncio.to_thread(_checked, one, given)
        if isinstance(found, Broken):
            report.broken.append(found)
        else:
            violations, number = found
            report.add(violations)
            if number > len(violations):
                report.found[one.name] += number - len(violations)
        tick(1)


def _checked(one: Invariant, frames: dict[str, pd.DataFrame]) -> tuple[list[Violation], int] | Broken:
    """(violations, their number), or why the check is broken. The check gets copies: what it changes is its own."""
    try:
        answer = one.check(**{name: frame.copy() for name, frame in frames.items()})
        return _violations(one.name, answer)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | MemoryError):
            raise
        return Broken(one.name, str(error) if isinstance(error, _NoAnswer) else _line(error))


class _NoAnswer(Exception):
    """An answer that says nothing about what is wrong."""


def _violations(name: str, answer: Any) -> tuple[list[Violation], int]:
    import numpy as np
    import pandas as pd

    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], bool | np.bool_):
        holds, says = answer
        return ([], 0) if holds else ([Violation("", name, str(says), {})], 1)
    if isinstance(answer, bool | np.bool_):
        return ([], 0) if answer else ([Violation("", name, f"it does not hold: {name}", {})], 1)
    if isinstance(answer, pd.DataFrame):
        return [_of_row(name, index, row) for index, row in answer.head(KEPT).iterrows()], len(answer)
    if isinstance(answer, str | bytes | dict) or not isinstance(answer, Iterable):
        raise _NoAnswer(
            f"it answered {type(answer).__name__}; return a frame of bad rows, a list of ids, or True or False"
        )
    ids = list(answer)
    if any(isinstance(one, pd.DataFrame | pd.Series | pd.Index) for one in ids):
        raise _NoAnswer("it answered several frames, or a frame and something else; return one frame of bad rows")
    if ids and all(isinstance(one, bool | np.bool_) for one in ids):
        raise _NoAnswer("it answered a mask of True and False; return the bad rows themselves: frame[mask]")
    return [Violation(str(one), name, f"it breaks: {name}", {}) for one in ids[:KEPT]], len(ids)


def _of_row(name: str, index: Any, row: pd.Series[Any]) -> Violation:
    values = row.to_dict()
    id_ = next((values[column] for column in _IDS if column in values), index)
    says = values.pop(_SAYS, None)
    evidence = {str(column): _plain(value) for column, value in list(values.items())[:_COLUMNS]}
    return Violation(str(id_), name, str(says or f"it breaks: {name}"), evidence)


def _plain(value: Any) -> Any:
    """A cell as JSON has it."""
    import pandas as pd

    if isinstance(value, list | dict | tuple):
        return value
    if pd.isna(value):
        return None
    if isinstance(value, str | bool | int | float):
        return value
    return value.item() if hasattr(value, "item") else str(value)
