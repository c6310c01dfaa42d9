"""`trellis recommend`: which retry policy meets a deadline."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trellis.cli.common import Json, out, read_settings, say, show
from trellis.errors import BadInput, SchemaMismatch, StackError

if TYPE_CHECKING:
    import pandas as pd

    from trellis.insight.fit import Learned
    from trellis.insight.recommend import Recommendation


def recommend(
    deadline: Annotated[float, typer.Option(help="Seconds within which an order should complete.")] = 15,
    epsilon: Annotated[float, typer.Option(help="The share of orders that may miss it.")] = 1e-5,
    max_calls: Annotated[float | None, typer.Option(help="The most calls that a step may take on average.")] = None,
    from_events: Annotated[bool, typer.Option("--from-events", help="Learn the faults from this ledger.")] = False,
    query: Annotated[
        str | None, typer.Option(help="Learn the faults from the histories that this query finds.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="The namespace of these histories.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Learn from what began at this time or later: 2026-11-21T10:00 (UTC), or 2h ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Learn from what began before this time.")] = None,
    steps: Annotated[
        str | None, typer.Option(help="What a run does: 'reserve, charge x 10, (pack | label), 3s'. Default: learned.")
    ] = None,
    overhead: Annotated[
        float | None, typer.Option(help="Seconds that a run takes besides its steps. Default: measured.")
    ] = None,
    outage: Annotated[
        float | None, typer.Option(help="Seconds that a provider is out. Policies that do not recover are refused.")
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(help="How many calls each step's provider serves at once; the others wait.")
    ] = None,
    service: Annotated[
        float | None, typer.Option(help="Seconds that it works on a call. Default: as long as good calls take.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Orders that arrive in a second. Default: as in the data.")] = None,
    out_: Annotated[
        str | None, typer.Option("--out", help="The step whose provider is out. Default: the busiest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which retry policy meets a deadline, and what it costs. Without --from-events or --query: under canonical
    faults. What is learned is checked first, and the answer begins with the checks that failed."""
    from trellis.insight.calls import Overhead
    from trellis.insight.chain_text import parse
    from trellis.insight.recommend import recommend as choose
    from trellis.insight.stress import Stress

    read_settings()
    stress = Stress(outage, capacity, service, rate, out_)
    if not stress and (service, rate, out_) != (None, None, None):
        raise typer.BadParameter("--service, --rate and --out describe a stress: give --outage, --capacity or both")
    if from_events and query is not None:
        raise typer.BadParameter("give --from-events or --query, not both")
    if (since or until) and not from_events and query is None:
        raise typer.BadParameter("--since and --until choose what is learned from: give --from-events or --query")
    if overhead is not None and not 0 <= overhead < 86_400:
        raise typer.BadParameter("--overhead is a number of seconds, 0 or more and less than a day")
    began = (_time(since, "--since"), _time(until, "--until"))
    chain = None if steps is None else parse(steps)
    learned: Learned | None = None
    if query is not None:
        learned = _from_histories(query, namespace, *began)
    elif from_events:
        learned = _from_ledger(*began)
    timing = None if overhead is None else Overhead(order=overhead)
    found = choose(deadline, epsilon, learned, max_calls=max_calls, steps=chain, overhead=timing, stress=stress)
    show(_result(found, learned), as_json, lambda: _print(found, learned))


def _from_ledger(since: datetime | None, until: datetime | None) -> Learned:
    """What the orders that began between two times teach."""
    from trellis import insight
    from trellis.insight.fit import learn

    orders = insight.orders(since=since, until=until)
    # An order's first attempt begins before its row is written.
    tries = insight.attempts(since=None if since is None else since - timedelta(minutes=1))
    if since is not None or until is not None:
        tries = tries[tries["order_id"].isin(orders["order_id"])]
        if tries.empty:
            raise BadInput("No order began in this time. Choose another --since or --until.")
    return learn(tries, runs=orders)


def _from_histories(query: str, namespace: str | None, since: datetime | None, until: datetime | None) -> Learned:
    """What the histories that a query finds teach."""
    from trellis import insight
    from trellis.insight.fit import learn
    from trellis.insight.history import PartialHistory
    from trellis.messages import ORDER_WORKFLOW, SHIPPING_WORKFLOW

    with warnings.catch_warnings():
        # The notes below say what was not read.
        warnings.simplefilter("ignore", PartialHistory)
        histories = insight.history(query=query, namespace=namespace, since=since, until=until, progress=True)
    for note in histories.attrs["notes"]:
        say(note)
    if histories["workflow_type"].isin([ORDER_WORKFLOW, SHIPPING_WORKFLOW]).any():
        raise BadInput("An order's tries are in the ledger, not in its history: use --from-events for them.")
    book = in_the_book(histories)
    if book is not None:
        flown = book["run_id"].nunique()
        say(f"{flown:,} of these runs are in the book of flights, which holds their attempts without gaps.")
    return learn(histories, book=book)


def in_the_book(histories: pd.DataFrame) -> pd.DataFrame | None:
    """What the book of this workspace holds of these runs; None if there is no book, or nothing in it."""
    from trellis import insight
    from trellis.insight.flights import PartialBook

    names = list(histories["namespace"].dropna().astype(str).unique())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialBook)
        try:
            found = insight.flights(
                workflow=list(histories["workflow_id"].dropna().unique()), namespace=names, tries=True
            )
        except (StackError, SchemaMismatch):
            return None
    mine = found[found["run_id"].isin(histories["run_id"].dropna().unique())]
    return mine if len(mine) else None


_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)(?:\s+ago)?")
_UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}


def _time(text: str | None, option: str) -> datetime | None:
    """A time from text: a date and time, or an age. A time without a zone is in UTC."""
    if text is None:
        return None
    try:
        if age := _AGE.fullmatch(text.strip()):
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: float(age[1])})
        found = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{option} is a time such as 2026-11-21T10:00 (UTC), or an age such as 30m, 2h or 3d"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _result(found: Recommendation, learned: Learned | None) -> dict[str, Any]:
    """The answer as JSON. A time that the data do not limit is null."""
    from trellis.insight.recommend import OUT

    return {
        "trust": found.trust,
        "checks": [asdict(check) for check in found.checks],
        "policy": asdict(found.policy),
        "p_miss": found.p_miss,
        "p_miss_at_worst": found.p_miss_at_worst,
        "today": found.today,
        "p50": _known(found.p50),
        "p99": _known(found.p99),
        "calls_per_step": round(found.calls_per_step, 3),
        "outage_calls": {"seconds": OUT, "times_usual": round(found.outage_calls, 1)},
        "stress": None if found.stressed is None else found.stressed.result(),
        "words": found.words(),
        "paste": found.paste() if found.trust else None,
        "learned": learned
        and {
            step: {"tries": fit.tries, "shares": fit.shares, "intervals": fit.intervals}
            for step, fit in learned.steps.items()
        },
    }


def _known(seconds: float) -> float | None:
    return round(seconds, 3) if math.isfinite(seconds) else None


def _print(found: Recommendation, learned: Learned | None) -> None:
    def line(text: str) -> None:
        out.print(text, highlight=False, soft_wrap=True)

    line(found.words())
    if not found.trust:
        return
    line(f"Half of the {found.noun}s complete within {found.p50:.2f} s, 99 % within {found.p99:.2f} s.")
    if learned:
        line(learned.words())
        for check in found.checks:
            line(f"Checked, {check.name}: {check.words}")
    line(f"\nTo paste into a workflow:\n{found.paste()}")
