"""Which lines of user code run in an activation: by `sys.monitoring` from Python 3.12, by tracing before.

User code is what is neither the standard library's, nor the SDK's, nor an installed package's, unless the workflow
itself comes from that package. Two replays may run at once, in two threads; each sees its own lines only. A tracer that
was there before, such as coverage's, is given back after each activation.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
import threading
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Protocol

import temporalio

import trellis.sandbox
from trellis.replay.steps import Line

KEPT = 10_000
"""The most lines that are kept of one step. The others are counted."""

_SDK = str(Path(temporalio.__file__).parent)
_OURS = (str(Path(__file__).parent), trellis.sandbox.__file__)
_LIBRARY = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib")})
_INSTALLED = ("site-packages", "dist-packages")

# The SDK's sandbox and Python itself run code that has no file: <frozen importlib>, <string>, workflow_sandbox.py.
_WITHOUT_FILE = ("<", "workflow_sandbox.py")


@functools.cache
def foreign(file: str) -> bool:
    """True for a file that is user code in no replay."""
    if file.startswith((*_WITHOUT_FILE, _SDK, *_OURS)):
        return True
    return file.startswith(_LIBRARY) and not any(f"/{each}/" in file for each in _INSTALLED)


class UserCode:
    """Tells user code from other code, for workflows from the given files.

    An installed package is user code if one of the files is in it.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._packages = tuple({package for file in files if (package := _installed_package(file))})
        self.known: dict[str, bool] = {}
        self._lines: dict[tuple[str, int, str], Line] = {}
        self._files: set[str] = set()
        self._new: list[str] = []

    def __contains__(self, file: object) -> bool:
        if not isinstance(file, str):
            return False
        known = self.known.get(file)
        if known is None:
            package = _installed_package(file)
            known = not foreign(file) and (package is None or package in self._packages)
            self.known[file] = known
        return known

    def line(self, code: CodeType, number: int) -> Line:
        """The line, always the same object for the same line."""
        key = code.co_filename, number, code.co_qualname
        found = self._lines.get(key)
        if found is None:
            found = self._lines[key] = Line(*key)
            if code.co_filename not in self._files:
                self._files.add(code.co_filename)
                self._new.append(code.co_filename)
        return found

    def new_files(self) -> list[str]:
        """The files of lines that were asked for, each once."""
        found, self._new = self._new, []
        return found

    def innermost(self, frame: FrameType | None) -> Line | None:
        """The line of user code that called, of a frame and those that called it."""
        while frame is not None:
            if frame.f_code.co_filename in self:
                return self.line(frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno)
            frame = frame.f_back
        return None


def _installed_package(file: str) -> str | None:
    """The folder or module of the installed package that the file belongs to."""
    parts = Path(file).parts
    for position, part in enumerate(parts[:-1]):
        if part in _INSTALLED:
            return str(Path(*parts[: position + 2]))
    return None


class Ran:
    """The lines of one activation: the first KEPT, in order, and how many more ran."""

    def __init__(self, user: UserCode) -> None:
        self.user = user
        self._found: list[tuple[CodeType, int]] = []
        self.cut = 0

    def add(self, code: CodeType, number: int) -> None:
        if len(self._found) < KEPT:
            self._found.append((code, number))
        else:
            self.cut += 1

    def lines(self) -> tuple[Line, ...]:
        return tuple(self.user.line(code, number) for code, number in self._found)

    def last(self) -> Line | None:
        """The line that ran last."""
        return self.user.line(*self._found[-1]) if self._found and not self.cut else None


class Watcher(Protocol):
    """Notes lines. `begin` and `end` are called in the thread that runs the workflow, around each activation."""

    def begin(self, ran: Ran) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None:
        """Called once, when the replay is over."""


class Tracing:
    """Lines by `sys.settrace`."""

    def begin(self, ran: Ran) -> None:
        user, known = ran.user, ran.user.known
        add = ran.add

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                add(frame.f_code, frame.f_lineno)
            return line

        def call(frame: FrameType, event: str, argument: Any) -> Any:
            # Called for each function of the SDK too, thousands of times in a step: one look-up must do.
            file = frame.f_code.co_filename
            users = known.get(file)
            return line if (file in user if users is None else users) else None

        self._before = sys.gettrace()
        sys.settrace(call)

    def end(self) -> None:
        sys.settrace(self._before)

    def close(self) -> None:
        pass


class _Here(threading.local):
    ran: Ran | None = None


if sys.version_info >= (3, 12):
    _monitoring = sys.monitoring
    _events = sys.monitoring.events

    class _Tool:
        """The one tool of this process: monitoring is global, so that all replays share it."""

        # 0 is for debuggers, 1 for coverage, 5 for optimisers.
        FREE = (3, 4, 2)

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self._users = 0
            self._id: int | None = None
            self._watched: list[CodeType] = []
            self.here = _Here()

        def open(self) -> bool:
            """False: other tools have taken all ids."""
            with self._lock:
                if not self._users:
                    self._id = next((id_ for id_ in self.FREE if _monitoring.get_tool(id_) is None), None)
                    if self._id is None:
                        return False
                    _monitoring.use_tool_id(self._id, "trellis")
                    _monitoring.register_callback(self._id, _events.PY_START, self._started)
                    _monitoring.register_callback(self._id, _events.LINE, self._line)
                    _monitoring.set_events(self._id, _events.PY_START)
                self._users += 1
                return True

        def close(self) -> None:
            with self._lock:
                self._users -= 1
                if self._users or self._id is None:
                    return
                _monitoring.set_events(self._id, 0)
                for code in self._watched:
                    _monitoring.set_local_events(self._id, code, 0)
                self._watched.clear()
                for event in (_events.PY_START, _events.LINE):
                    _monitoring.register_callback(self._id, event, None)
                _monitoring.free_tool_id(self._id)
                self._id = None
                # What was disabled for this tool would stay so for the next one that gets its id.
                _monitoring.restart_events()

        def _started(self, code: CodeType, offset: int) -> Any:
            ran = self.here.ran
            if ran is None or code.co_filename not in ran.user or self._id is None:
                # Code of other files may be user code in another replay, unless it is never.
                return _monitoring.DISABLE if foreign(code.co_filename) else None
            if not _monitoring.get_local_events(self._id, code) & _events.LINE:
                _monitoring.set_local_events(self._id, code, _events.LINE)
                self._watched.append(code)
            # Not DISABLE: in Python 3.13.0 a function of one line would then report its line only once.
            return None

        def _line(self, code: CodeType, number: int) -> Any:
            ran = self.here.ran
            if ran is not None and code.co_filename in ran.user:
                ran.add(code, number)
            return None

    _tool = _Tool()

    class Monitoring:
        """Lines by `sys.monitoring`: only code objects of user files report theirs."""

        def begin(self, ran: Ran) -> None:
            _tool.here.ran = ran

        def end(self) -> None:
            _tool.here.ran = None

        def close(self) -> None:
            _tool.close()

    def watcher() -> Watcher:
        """What notes lines on this version of Python. Close it."""
        return Monitoring() if _tool.open() else Tracing()

else:

    def watcher() -> Watcher:
        """What notes lines on this version of Python. Close it."""
        return Tracing()
