"""`trellis recommend`: which retry policy meets a deadline."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from trellis.cli.common import Json, out, read_settings, show
from trellis.errors import BadInput


def recommend(
    deadline: Annotated[float, typer.Option(help="Seconds within which an order should complete.")] = 15,
    epsilon: Annotated[float, typer.Option(help="The share of orders that may miss it.")] = 1e-5,
    max_calls: Annotated[float | None, typer.Option(help="At most so many calls a step.")] = None,
    from_events: Annotated[bool, typer.Option("--from-events", help="Learn the faults from this ledger.")] = False,
    query: Annotated[str | None, typer.Option(help="Learn them from the histories this query finds.")] = None,
    namespace: Annotated[str | None, typer.Option(help="The namespace of these histories.")] = None,
    as_json: Json = False,
) -> None:
    """Which retry policy meets a deadline, and what it costs. Without --from-events or --query: under canonical
    faults."""
    from trellis import insight
    from trellis.insight.fit import learn
    from trellis.insight.recommend import recommend as choose
    from trellis.messages import ORDER_WORKFLOW, SHIPPING_WORKFLOW

    read_settings()
    if from_events and query is not None:
        raise typer.BadParameter("give --from-events or --query, not both")
    learned = None
    if query is not None:
        histories = insight.history(query=query, namespace=namespace)
        if histories["workflow_type"].isin([ORDER_WORKFLOW, SHIPPING_WORKFLOW]).any():
            raise BadInput("An order's tries are in the ledger, not in its history: use --from-events for them.")
        learned = learn(insight.history_attempts(histories))
    elif from_events:
        learned = learn(insight.attempts())
    found = choose(deadline, epsilon, learned, max_calls=max_calls)
    result = {
        "policy": asdict(found.policy),
        "p_miss": found.p_miss,
        "p_miss_at_worst": found.p_miss_at_worst,
        "p50": round(found.p50, 3),
        "p99": round(found.p99, 3),
        "calls_per_step": round(found.calls_per_step, 3),
        "words": found.words(),
        "learned": learned
        and {
            step: {"tries": fit.tries, "shares": fit.shares, "intervals": fit.intervals}
            for step, fit in learned.steps.items()
        },
    }

    def human() -> None:
        if learned:
            out.print(learned.words(), highlight=False, soft_wrap=True)
        out.print(found.words(), highlight=False, soft_wrap=True)
        out.print(
            f"Half of the orders complete within {found.p50:.2f} s, 99 % within {found.p99:.2f} s.", highlight=False
        )

    show(result, as_json, human)
