"""Read edited files again, so that workflows and activities of a flight are those of the same text.

The SDK's sandbox reads a workflow's file for every workflow. So after an edit new workflows would run new code, while
activities, type hints and forms would still be the old ones.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import psutil

from trellis.errors import BadInput
from trellis.flying.app import App, app_of


def read_again(app: App) -> tuple[App, list[str]]:
    """The app with the classes and functions that its edited files hold now, and a sentence for each such file.

    Raises BadInput for a file that cannot be imported any more, or that lacks one of them; then nothing has changed.
    """
    names = {each.__module__ for each in (*app.workflows, *app.activities) if hasattr(each, "__module__")}
    modules = [module for name in sorted(names) if (module := sys.modules.get(name)) and _is_edited(module, app)]
    if not modules:
        return app, []
    files = ", ".join(Path(module.__file__ or "").name for module in modules)
    before = {module.__name__: dict(vars(module)) for module in modules}
    try:
        for module in modules:
            _reload(module)
        fresh = app_of(
            [_fresh(each, before) for each in app.workflows], [_fresh(each, before) for each in app.activities]
        )
    except BaseException as error:
        for module, values in zip(modules, before.values(), strict=True):
            # Activities in threads run on: no name of theirs may be missing meanwhile.
            vars(module).update(values)
            for name in vars(module).keys() - values.keys():
                del vars(module)[name]
        if not isinstance(error, Exception):
            raise
        raise BadInput(f"{files} was edited and cannot be read again ({error}). The old code goes on.") from None
    return fresh, [f"{files} was edited and has been read again."]


def _reload(module: ModuleType) -> None:
    # The import system compares times in whole seconds: it would miss the second of two edits within one second.
    cached = getattr(module, "__cached__", None)
    if cached:
        Path(cached).unlink(missing_ok=True)
    importlib.invalidate_caches()
    importlib.reload(module)


def _is_edited(module: ModuleType, app: App) -> bool:
    """Whether the module's file no longer holds the code of what was given from it."""
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or "site-packages" in file:
        return False
    try:
        if Path(file).stat().st_mtime < psutil.Process().create_time():
            return False
        codes = set(_codes(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)))
    except OSError:
        return False
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        what = getattr(error, "msg", error)
        raise BadInput(f"{Path(file).name}{f', line {line}' if line else ''}: {what}. The old code goes on.") from None
    given = (each for each in (*app.workflows, *app.activities) if getattr(each, "__module__", "") == module.__name__)
    return any(code not in codes for each in given for code in _own_codes(each, file))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _own_codes(thing: Any, file: str) -> Iterator[CodeType]:
    """The code of a function, or of the methods of a class, as far as it comes from this file."""
    members = vars(thing).values() if isinstance(thing, type) else [thing]
    for member in members:
        function = inspect.unwrap(getattr(member, "__func__", member)) if callable(member) else None
        if isinstance(function, FunctionType) and function.__code__.co_filename == file:
            yield function.__code__


def _fresh(thing: Any, before: dict[str, dict[str, Any]]) -> Any:
    """What has the same name in the module that was read again. A method of an instance stays as it is."""
    module = getattr(thing, "__module__", "")
    if module not in before or inspect.ismethod(thing) or not getattr(thing, "__qualname__", "").isidentifier():
        return thing
    return getattr(sys.modules[module], thing.__qualname__)
