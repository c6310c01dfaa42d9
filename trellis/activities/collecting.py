"""Which activities an object brings, and which queue each belongs to. Nobody lists them by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from trellis.model import STEPS

_QUEUE_OF = {info.activity or str(step): info.queue for step, info in STEPS.items()}


def activities_of(holder: object) -> dict[str, Callable[..., Any]]:
    """The methods of `holder` (an object or a class) that carry `@activity.defn`, by their activity type."""
    found = {}
    for _, method in inspect.getmembers(holder, callable):
        definition = getattr(method, "__temporal_activity_definition", None)
        if definition is not None:
            found[str(definition.name)] = method
    return found


def activities_on(queue: str, *holders: object) -> list[Callable[..., Any]]:
    """What a worker of that queue runs. What no step names serves the order's workflow itself, on `orders`."""
    return [
        method
        for holder in holders
        for name, method in activities_of(holder).items()
        if _QUEUE_OF.get(name, "orders") == queue
    ]
