"""Find an app: the workflows and activities of a Python file, a module or a package."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from trellis.errors import BadInput
from trellis.flying.app import App, app_of, is_activity, is_workflow, needs_self


@dataclass(frozen=True)
class Found:
    """An app and where it is. `notes`: sentences about what was found and is left out."""

    name: str
    app: App
    notes: tuple[str, ...]


def found_in(target: str) -> Found:
    """The app in a Python file, a folder that is a package, or a module or package by its dotted name.

    Python's path is as `python my_app.py` would have it: the file's folder comes first. For a folder and for a dotted
    name it is as `python -m` would have it. A package's modules are imported too, where the package itself has nothing.
    Raises BadInput, one sentence: no such module, one that cannot be imported, or one without workflows and activities.
    """
    folder, name = _place(target)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    modules = [_imported(name, target, folder)]
    path = getattr(modules[0], "__path__", None)
    if path is not None and not any(map(_holds_something, modules)):
        inside = sorted(one.name for one in pkgutil.iter_modules(path) if one.name != "__main__")
        modules += [_imported(f"{name}.{one}", target, folder) for one in inside]
    workflows = [thing for module in modules for thing in vars(module).values() if is_workflow(thing)]
    activities = [thing for module in modules for thing in vars(module).values() if _free(thing)]
    methods, notes = _methods(modules)
    if not workflows and not activities and not methods:
        left_out = f" {notes[0]}" if notes else ""
        raise BadInput(
            f"{target} has no workflow and no activity: nothing in it has @workflow.defn or @activity.defn.{left_out}"
        )
    return Found(name.rpartition(".")[2], app_of(workflows, [*activities, *methods]), tuple(notes))


def _place(target: str) -> tuple[str, str]:
    """The folder that must be on Python's path, and the module's name."""
    path = Path(target)
    if target.endswith(".py") or os.sep in target or (path.is_dir() and not target.replace(".", "_").isidentifier()):
        if not path.exists():
            raise BadInput(f"There is no file {target}.")
        path = path.resolve()
        name = path.stem if path.is_file() else path.name
        if not name.isidentifier():
            raise BadInput(
                f"{path.name} cannot be imported by its name. Give it a name of letters, digits and underscores."
            )
        return str(path.parent), name
    if not all(part.isidentifier() for part in target.split(".")):
        raise BadInput(f"{target!r} is no Python file, and no name of a module.")
    return os.getcwd(), target


def _imported(name: str, target: str, folder: str) -> ModuleType:
    known = sys.modules.get(name)
    try:
        module = known or importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise BadInput(_why(error, name, target)) from None
    file = getattr(module, "__file__", None)
    if target.endswith(".py") and (file is None or Path(file).resolve() != Path(target).resolve()):
        raise BadInput(
            f"{Path(target).name} has the name of another module, {name}, which Python finds first. Rename the file."
        )
    return module


def _why(error: BaseException, name: str, target: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return f"There is no module {target}. Give a Python file, or a name that Python finds from here."
    if isinstance(error, SyntaxError):
        return f"{_short(error.filename or target)}, line {error.lineno}: {error.msg}."
    at = _line_of(error)
    where = f"{_short(at.filename)}, line {at.lineno}" if at else target
    if isinstance(error, SystemExit):
        return f'{where}: the module ends the process when it is imported. Put that under if __name__ == "__main__".'
    what = " ".join(str(error).split())[:300]
    return f"{where}: {type(error).__name__}{f': {what}' if what else ''}".rstrip(".") + "."


def _line_of(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost line that is neither Python's import system nor a library's."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename not in (__file__, importlib.__file__)
    ]
    own = [frame for frame in frames if not _is_library(frame.filename)]
    found = own or frames
    return found[-1] if found else None


def _is_library(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file or file.startswith(os.path.dirname(os.__file__))


def _short(file: str) -> str:
    """The file as seen from here, where it lies below this folder."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _holds_something(module: ModuleType) -> bool:
    return any(is_workflow(thing) or _free(thing) for thing in vars(module).values())


def _free(thing: object) -> bool:
    """Whether this is an activity that needs no instance."""
    return is_activity(thing) and not needs_self(thing)  # type: ignore[arg-type]


def _methods(modules: list[ModuleType]) -> tuple[list[Callable[..., Any]], list[str]]:
    """Activities that are methods: of the instances that a module holds, else of an instance that is made here.

    Also sentences about the classes of which no instance can be made.
    """
    things = [thing for module in modules for thing in vars(module).values()]
    packages = {module.__name__ for module in modules}
    methods: list[Callable[..., Any]] = []
    notes: list[str] = []
    instances = [thing for thing in things if not isinstance(thing, type | ModuleType) and _activities(type(thing))]
    classes = [
        thing
        for thing in dict.fromkeys(filter(inspect.isclass, things))
        # An imported class may be an abstract one of a library, and not meant to run here.
        if thing.__module__ in packages and _activities(thing) and not any(type(one) is thing for one in instances)
    ]
    for each in classes:
        names = ", ".join(_activities(each))
        if inspect.isabstract(each) or any(other is not each and issubclass(other, each) for other in classes):
            # Its subclass has the same activities.
            continue
        try:
            instances.append(each())
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            notes.append(
                f"Left out: {names} of {each.__name__}, because {each.__name__}() fails ({type(error).__name__}: "
                f"{why}). Make an instance in the module."
            )
    for number, instance in enumerate(instances):
        if not any(instance is other for other in instances[:number]):
            methods += [getattr(instance, name) for name in _activities(type(instance))]
    return methods, notes


def _activities(cls: type) -> list[str]:
    """The names of the methods of a class that are activities."""
    return [name for name, member in _functions(cls) if is_activity(member) and needs_self(member)]


def _functions(cls: type) -> Iterator[tuple[str, Any]]:
    try:
        yield from inspect.getmembers(cls, inspect.isfunction)
    except Exception:
        # A class with a metaclass of its own may not let itself be looked at.
        return
