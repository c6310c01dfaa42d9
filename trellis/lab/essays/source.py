"""The code that an essay talks about, read from the source that runs."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

from IPython.display import Markdown
from temporalio import workflow

from trellis.activities.collecting import activities_of
from trellis.activities.ledger_only import LedgerActivities
from trellis.activities.steps import OutsideActivities
from trellis.db.migrate import migrations
from trellis.errors import BadInput
from trellis.model import STEPS, Step
from trellis.workflows.order import OrderWorkflow

Shown = str | type | Callable[..., Any]


def code_of(*shown: Shown) -> Markdown:
    """The source code of steps (given by name: their activities), classes, functions or methods.

    Raises BadInput for an unknown step.
    """
    return _coloured(activity_of(one) if isinstance(one, str) else one for one in shown)


def code_of_handler(kind: str, name: str) -> Markdown:
    """The code that handles a signal, a query or an update of this name; for an update also its validator.

    `name` is Temporal's name, which clients send. Raises BadInput for an unknown one.
    """
    definition = workflow._Definition.must_from_class(OrderWorkflow)
    handlers: dict[str, dict[Any, Any]] = {
        "signal": dict(definition.signals),
        "query": dict(definition.queries),
        "update": dict(definition.updates),
    }
    if kind not in handlers:
        raise BadInput(f"There is no kind of handler {kind!r}. Known are {', '.join(handlers)}.")
    if name not in handlers[kind]:
        known = ", ".join(str(one) for one in handlers[kind])
        raise BadInput(f"An order has no {kind} {name!r}. It has {known}.")
    found = handlers[kind][name]
    validator = getattr(found, "validator", None)
    return _coloured([found.fn, validator] if validator else [found.fn])


def sql_of(*functions: str) -> Markdown:
    """The SQL of each function of our schema, as the newest migration defines it. Raises BadInput."""
    texts = []
    for name in functions:
        # With the comment lines above it, up to the end of its body.
        pattern = rf"(?:^--[^\n]*\n)*^CREATE (?:OR REPLACE )?FUNCTION {re.escape(name)}\(.*?\$\$.*?\$\$;"
        found = [match[0] for _, _, text in migrations() for match in re.finditer(pattern, text, re.S | re.M)]
        if not found:
            raise BadInput(f"The schema has no function {name!r}.")
        texts.append(found[-1])
    return _block("sql", texts)


def activity_of(step: str) -> Callable[..., Any]:
    """The method that is a step's activity. Raises BadInput for an unknown step."""
    if step not in set(Step):
        raise BadInput(f"There is no step {step!r}. Known are {', '.join(Step)}.")
    name = STEPS[Step(step)].activity or step
    return (activities_of(OutsideActivities) | activities_of(LedgerActivities))[name]


def _coloured(found: Any) -> Markdown:
    return _block("python", [textwrap.dedent(inspect.getsource(one)) for one in found])


def _block(language: str, texts: list[str]) -> Markdown:
    """A block of code in Markdown. JupyterLab colours it in either theme, and GitHub does too."""
    text = "\n\n".join(one.strip("\n") for one in texts)
    return Markdown(f"```{language}\n{text}\n```")
