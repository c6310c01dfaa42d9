"""The workflow classes to replay with: given ones, those of a module, or Trellis's own."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

from trellis.replay.errors import ReplayError, in_one_line
from trellis.replay.sdk import workflow_name

Workflows = type | str | ModuleType | Iterable["type | str | ModuleType"] | None
"""A workflow class, a module or its name, several of these, or None for Trellis's own."""

OURS = ("trellis.workflows.order", "trellis.workflows.shipping")


def classes_of(workflows: Workflows = None) -> list[type]:
    """The workflow classes, each once. Raises ReplayError: no such module, one that fails on import or has none."""
    given: Sequence[type | str | ModuleType]
    if workflows is None:
        given = OURS
    elif isinstance(workflows, type | str | ModuleType):
        given = [workflows]
    else:
        given = list(workflows)
    found: list[type] = []
    for each in given:
        if isinstance(each, type):
            if workflow_name(each) is None:
                raise ReplayError(f"{each.__name__} is no workflow class: it has no @workflow.defn.")
            found.append(each)
        else:
            found += _of_module(each if isinstance(each, ModuleType) else _imported(each))
    return list(dict.fromkeys(found))


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | MemoryError):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ReplayError(f"There is no module {name}. Give its dotted name, and run this where it lies.") from None
        raise ReplayError(f"The module {name} fails on import ({in_one_line(error)}).") from None


def _of_module(module: ModuleType) -> list[type]:
    found = [each for _, each in inspect.getmembers(module, inspect.isclass) if workflow_name(each) is not None]
    if not found:
        raise ReplayError(f"The module {module.__name__} defines no workflow: no class in it has @workflow.defn.")
    return found


def files_of(classes: Iterable[type]) -> list[str]:
    """The files in which the classes are defined."""
    modules = (sys.modules.get(each.__module__) for each in classes)
    return [file for module in modules if module is not None and (file := getattr(module, "__file__", None))]
