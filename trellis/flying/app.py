"""The workflows and activities of an app, checked before a worker gets them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# The SDK has no public way to ask for these names.
from temporalio.activity import _Definition as _Activity
from temporalio.workflow import _Definition as _Workflow

from trellis.errors import BadInput

DYNAMIC = "any other type"
"""The name that is shown for a workflow or an activity that takes every type that no other one has."""


@dataclass(frozen=True)
class App:
    """What one worker runs. `threaded`: the activity types that are not async, which run in threads."""

    workflows: tuple[type, ...]
    activities: tuple[Callable[..., Any], ...]
    workflow_types: tuple[str, ...]
    activity_types: tuple[str, ...]
    threaded: tuple[str, ...]

    @property
    def takes_any(self) -> bool:
        """Whether it has a workflow for every type."""
        return DYNAMIC in self.workflow_types

    def in_words(self) -> str:
        """What it runs, such as "workflows Trip, Fare; activities book"."""
        parts = [
            f"{kind}{'s' * (len(types) > 1)} {', '.join(types)}"
            for kind, types in (("workflow", self.workflow_types), ("activity", self.activity_types))
            if types
        ]
        return "; ".join(parts).replace("activitys", "activities")

    def completed(self, type_: str, args: Sequence[Any]) -> list[Any]:
        """The arguments of a workflow with the defaults of those that are missing.

        The SDK reads arguments by their type hints only if there are as many as hints. Raises BadInput: there is no
        such workflow, or it does not take so many arguments.
        """
        definition = self._definition(type_)
        if definition is None:
            if self.takes_any:
                return list(args)
            raise BadInput(f"There is no workflow {type_}. Known are {', '.join(self.workflow_types) or 'none'}.")
        signature = inspect.signature(definition.run_fn)
        try:
            call = signature.bind(None, *args)
        except TypeError as error:
            takes = ", ".join(list(signature.parameters)[1:]) or "no arguments"
            raise BadInput(f"{type_} takes {takes}: {error}.") from None
        call.apply_defaults()
        return list(call.args[1:])

    def hints(self, type_: str) -> list[type] | None:
        """The type hints of a workflow's arguments. None if it has none."""
        definition = self._definition(type_)
        return None if definition is None else definition.arg_types

    def _definition(self, type_: str) -> _Workflow | None:
        for name, workflow in zip(self.workflow_types, self.workflows, strict=True):
            if name == type_ and name != DYNAMIC:
                return _Workflow.must_from_class(workflow)
        return None


def app_of(workflows: Iterable[type], activities: Iterable[Callable[..., Any]]) -> App:
    """The app of these workflow classes and activity functions, each once.

    Raises BadInput, one sentence: what is no workflow or no activity, two of one name, or nothing at all.
    """
    classes = _listed("workflows", workflows)
    functions = _listed("activities", activities)
    if not classes and not functions:
        raise BadInput("There is nothing to fly: give workflows=[...], activities=[...] or both.")
    workflow_types = [_workflow_type(each) for each in classes]
    definitions = [_activity(each) for each in functions]
    activity_types = [definition.name or DYNAMIC for definition in definitions]
    _no_two("workflow", workflow_types, [each.__qualname__ for each in classes])
    _no_two("activity", activity_types, [_name(each) for each in functions])
    threaded = [name for name, one in zip(activity_types, definitions, strict=True) if not one.is_async]
    return App(tuple(classes), tuple(functions), tuple(workflow_types), tuple(activity_types), tuple(threaded))


def is_workflow(thing: object) -> bool:
    """Whether this is a class with @workflow.defn."""
    return isinstance(thing, type) and _Workflow.from_class(thing) is not None


def is_activity(thing: object) -> bool:
    """Whether this is a function with @activity.defn, or a bound method of one."""
    return callable(thing) and not isinstance(thing, type) and _defined(thing) is not None


def needs_self(activity: Callable[..., Any]) -> bool:
    """Whether this is a method that was taken from its class, and not from an instance."""
    return inspect.isfunction(activity) and next(iter(inspect.signature(activity).parameters), "") == "self"


def _listed(name: str, given: Iterable[Any]) -> list[Any]:
    if isinstance(given, str | type) or callable(given) or not isinstance(given, Iterable):
        raise BadInput(f"{name} must be a list, such as {name}=[{_name(given)}].")
    found: list[Any] = []
    for one in given:
        # Not a dict: a callable object need not have a hash.
        if not any(one is other or one == other for other in found):
            found.append(one)
    return found


def _workflow_type(thing: Any) -> str:
    if not isinstance(thing, type):
        raise BadInput(f"{_name(thing)} is no workflow class. Give the class that has @workflow.defn.")
    definition = _Workflow.from_class(thing)
    if definition is None:
        raise BadInput(f"{thing.__name__} is no workflow class: it has no @workflow.defn.")
    return definition.name or DYNAMIC


def _activity(thing: Any) -> _Activity:
    name = _name(thing)
    if isinstance(thing, type):
        raise BadInput(f"{name} is a class. Give the methods of an instance, such as {name}().method.")
    definition = _defined(thing) if callable(thing) else None
    if definition is None:
        raise BadInput(f"{name} is no activity: it has no @activity.defn.")
    if needs_self(thing):
        owner = thing.__qualname__.rpartition(".")[0].rpartition(".")[2] or "its class"
        raise BadInput(
            f"The activity {name} is a method without its instance. Give it as {owner}(...).{thing.__name__}."
        )
    return definition


def _defined(thing: Callable[..., Any]) -> _Activity | None:
    found = _Activity.from_callable(thing)
    # An object that has every attribute, such as a mock, would have this one too.
    return found if isinstance(found, _Activity) else None


def _no_two(kind: str, types: list[str], names: list[str]) -> None:
    for number, type_ in enumerate(types):
        if type_ in types[:number]:
            first = names[types.index(type_)]
            raise BadInput(
                f"{first} and {names[number]} have the same {kind} type, {type_}. A worker takes one of them."
            )


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or repr(thing)[:80])
