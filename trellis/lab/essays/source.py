"""The code that an essay talks about, shown from the source that runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from IPython.display import Code

from trellis.activities.ledger_only import LedgerActivities
from trellis.activities.steps import OutsideActivities
from trellis.errors import BadInput
from trellis.model import Step


def code_of(step: str) -> Code:
    """The activity of a step, as it runs. Raises BadInput for a step that nobody knows."""
    source = inspect.cleandoc(inspect.getsource(activity_of(step)))
    return Code(source, language="python")  # type: ignore[no-untyped-call]


def activity_of(step: str) -> Callable[..., Any]:
    name = "finish" if step in (Step.COMPLETE, Step.CANCEL, Step.FAIL) else step
    for holder in (OutsideActivities, LedgerActivities):
        found: Callable[..., Any] | None = getattr(holder, name, None)
        if found is not None:
            return found
    raise BadInput(f"There is no step {step!r}. Known are {', '.join(Step)}.")


def code_of_class(found: type) -> Code:
    """The source of a class, coloured."""
    return Code(inspect.getsource(found), language="python")  # type: ignore[no-untyped-call]
