"""Finds the activities of an object and the queue of each, so that nobody lists them by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from trellis.model import STEPS

_QUEUE_OF = {info.activity or str(step): info.queue for step, info in STEPS.items()}


def queue_of(activity_type: str) -> str:
    """The queue of an activity. An activity that belongs to no step runs on `orders`."""
    return _QUEUE_OF.get(activity_type, "orders")


def activities_of(holder: object) -> dict[str, Callable[..., Any]]:
    """The methods of `holder` (an object or a class) that carry `@activity.defn`, by their activity type."""
    found = {}
    for _, method in inspect.getmembers(holder, callable):
        definition = getattr(method, "__temporal_activity_definition", None)
        if definition is not None:
            found[str(definition.name)] = method
    return found


def activities_on(queue: str, *holders: object) -> list[Callable[..., Any]]:
    """What a worker of that queue runs."""
    return [method for holder in holders for name, method in activities_of(holder).items() if queue_of(name) == queue]
