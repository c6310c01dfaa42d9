"""Forms for workflows: for the start, and for each signal, update and query."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from temporalio.workflow import _Definition

from trellis.lab.flights.forms.docs import argument_docs, doc_of
from trellis.lab.flights.forms.fields import ABSENT, Form
from trellis.lab.flights.forms.hints import hints_of
from trellis.lab.flights.forms.kinds import Items, Json
from trellis.lab.flights.forms.maker import Maker

ARGUMENTS = "arguments"


@dataclass(frozen=True)
class Handler:
    """A workflow's start, or one of its signals, updates and queries. `name` is None for one that takes any name."""

    name: str | None
    doc: str
    form: Form

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "doc": self.doc, **self.form.to_json()}


@dataclass(frozen=True)
class Handlers:
    """What can be said to a workflow of one type. `run` starts it."""

    run: Handler
    signals: tuple[Handler, ...] = ()
    updates: tuple[Handler, ...] = ()
    queries: tuple[Handler, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run.to_json(),
            "signal": [one.to_json() for one in self.signals],
            "update": [one.to_json() for one in self.updates],
            "query": [one.to_json() for one in self.queries],
        }


def any_form() -> Form:
    """The form of a call of which nothing is known: all its arguments, each as JSON."""
    item = Json(says="JSON")
    return Form(
        (Items(name=ARGUMENTS, label="Arguments", says="each as JSON", item=item),), spread=True
    )  # fmt: skip


def form_of(function: Callable[..., Any]) -> Form:
    """The form of a function's arguments, from its type hints. The first one is left out if it is `self`."""
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    hints, docs, maker = hints_of(function), argument_docs(function), Maker()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters):
        return any_form()
    chosen = [one for one in parameters if one.kind in positional]
    defaults = {one.name: one.default for one in chosen if one.default is not inspect.Parameter.empty}
    fields = (
        maker.named(
            hints.get(one.name, Any), one.name, help=docs.get(one.name, ""),
            default=defaults.get(one.name, ABSENT), required=one.name not in defaults,
        )
        for one in chosen
    )  # fmt: skip
    return Form(tuple(fields), defaults)


# A page asks again every few seconds, on the loop on which workers run, and to read a class takes 5 to 30 ms.
@lru_cache(maxsize=200)
def handlers_of(workflow: type) -> Handlers:
    """The forms of a workflow class. Raises ValueError for a class without @workflow.defn."""
    # The SDK has no public way to ask for a workflow's handlers.
    definition = _Definition.must_from_class(workflow)
    run = _handler(definition.name, definition.run_fn, doc_of(workflow) or doc_of(definition.run_fn))
    return Handlers(
        run if definition.name is not None else replace(run, form=any_form()),
        _listed(definition.signals),
        _listed(definition.updates),
        _listed(definition.queries),
    )


def _listed(definitions: Mapping[str | None, Any]) -> tuple[Handler, ...]:
    """Handlers by name. The SDK's own ones, such as the query for the stack, are left out."""
    return tuple(
        _handler(name, one.fn, one.description or doc_of(one.fn))
        for name, one in sorted(definitions.items(), key=lambda entry: entry[0] or "\uffff")
        if not (name or "").startswith("__temporal")
    )


def _handler(name: str | None, function: Callable[..., Any], doc: str) -> Handler:
    # A handler without a name gets the name of the request as its first argument, and the rest as raw values.
    return Handler(name, doc, any_form() if name is None else form_of(function))
