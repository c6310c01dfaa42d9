"""One order in its three places: our ledger, Temporal's histories, and the code."""

from __future__ import annotations

import html
import inspect
import textwrap
from typing import Any

import pandas as pd
from IPython.display import HTML

from trellis.insight import download
from trellis.lab.essays.source import activity_of
from trellis.lab.session import Session
from trellis.model import STEP_OF, Step, workflow_id


def side_by_side(session: Session, order_id: str) -> pd.DataFrame:
    """The life of one order in our ledger and in Temporal's histories, sorted by time.

    Columns: seconds [s since the order's first entry], ledger, history [string; one of the two is empty in each row].
    Raises OrderNotFound.
    """
    frame = _entries(session, order_id)
    at = pd.to_datetime(frame.pop("at"), utc=True)
    frame.insert(0, "seconds", (at - at.min()).dt.total_seconds().round(3))
    return frame.drop(columns="step")


def _entries(session: Session, order_id: str) -> pd.DataFrame:
    """Entries sorted by time. Columns: at [UTC], step [empty where the entry belongs to none], ledger, history."""
    rows: list[tuple[Any, str, str, str]] = []
    for event in session.do(session.desk.events(order_id)):
        attempt = f", attempt {event['attempt']}" if event["attempt"] is not None else ""
        step = event["step"] or str(STEP_OF.get(event["type"], ""))
        rows.append((pd.Timestamp(event["ts"]).tz_convert("UTC"), step, f"{event['type']}{attempt}", ""))
    query = f'WorkflowId = "{workflow_id(order_id)}" OR WorkflowId STARTS_WITH "shipping-{order_id}-"'
    found = session.do(download(session.desk.client, query))
    # Rows for whole runs are left out: a run spans all other entries and has no single time.
    for entry in found[found["kind"] != "workflow"].to_dict("records"):
        attempt = f", attempt {entry['attempt']}" if entry["kind"] == "activity" else ""
        when = next(at for at in (entry["ended_at"], entry["started_at"], entry["scheduled_at"]) if not pd.isna(at))
        step = {"finish": "complete"}.get(entry["name"], entry["name"])
        rows.append((when, step, "", f"{entry['kind']} {entry['name']}{attempt}: {entry['outcome']}"))
    frame = pd.DataFrame(rows, columns=["at", "step", "ledger", "history"])
    return frame.sort_values("at", kind="stable", ignore_index=True)


def step_by_step(session: Session, order_id: str) -> HTML:
    """A table with one line for each step of an order: its events, its entries in the histories, and its code.

    Raises OrderNotFound.
    """
    entries = _entries(session, order_id)
    style = "text-align: left; vertical-align: top"
    heads = "".join(f'<th style="{style}">{name}</th>' for name in ("step", "ledger", "history", "code"))
    lines = [f"<tr>{heads}</tr>"]
    for step in dict.fromkeys(entries.loc[entries["ledger"] != "", "step"]):
        if step not in set(Step):
            continue
        found = activity_of(step)
        of_step = entries[entries["step"] == step]
        cells = [f"<b>{step}</b>"]
        cells += ["<br>".join(html.escape(line) for line in of_step[book] if line) for book in ("ledger", "history")]
        first_line = inspect.getdoc(found) or f"{found.__qualname__}, one round trip to Postgres"
        source = html.escape(textwrap.dedent(inspect.getsource(found)))
        code = f"<pre style='white-space: pre-wrap'><code>{source}</code></pre>"
        cells = [f'<td style="{style}; white-space: nowrap">{cell}</td>' for cell in cells]
        summary = f"<summary>{html.escape(first_line.splitlines()[0])}</summary>"
        cells.append(f'<td style="{style}"><details>{summary}{code}</details></td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return HTML(f"<table>{''.join(lines)}</table>")
