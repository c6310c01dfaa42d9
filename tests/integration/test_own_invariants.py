"""`trellis audit --module` on real books: orders, and somebody else's workflows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import House
from tests.integration.auditing import about, completed, planted
from tests.integration.odd_workflows import listed, run, worker
from tests.integration.test_cli import trellis
from trellis import stack
from trellis.audit import audit, invariants_of
from trellis.config import Settings
from trellis.plugin import TrellisPlugin

ORDERS = """
from trellis.audit import invariant

@invariant("every order that completed is paid in full")
def paid(orders, payments):
    both = orders.merge(payments, on="order_id", suffixes=("", "_paid"))
    return both[(both["state"] == "COMPLETED") & (both["amount"] != both["total"])]

@invariant("an order has no more events than this")
def short(events):
    return events.groupby("order_id").size().loc[lambda sizes: sizes > 10_000].index

@invariant("this check is broken")
def broken(attempts):
    return attempts["colour"]
"""

FOREIGN = """
from trellis.audit import invariant

@invariant("no run of Many retries")
def retries(history):
    again = history[(history["kind"] == "activity") & (history["attempt"] > 1)]
    return again.drop_duplicates("run_id").assign(sentence=again["name"].astype(str) + " was tried again")

@invariant("each run of Many completes")
def completes(workflows):
    return workflows[workflows["state"] != "COMPLETED"]

@invariant("no attempt of Many fails")
def fails(flights, history):
    mine = flights[flights["run_id"].isin(history["run_id"])]
    return mine[mine["outcome"] == "failed"]
"""


@pytest.fixture
def checks(tmp_path: Path) -> Path:
    return tmp_path / "my_checks.py"


async def test_a_planted_violation_of_an_own_invariant_is_found_beside_the_built_in_ones(
    house: House, settings: Settings, checks: Path
) -> None:
    """A payment of another amount breaks a built-in invariant and the own one; a broken check is reported too."""
    checks.write_text(ORDERS)
    order = await completed(house)
    report = await audit(house.desk.client, house.pool, query=about(order), own=invariants_of(str(checks)))
    assert [one.invariant for one in report.broken] == ["this check is broken"]
    assert "every order that completed is paid in full" not in report.found
    await planted(house, "UPDATE payments SET amount = amount + 1 WHERE order_id = %(order)s", order=order.order_id)
    try:
        done = await trellis(settings, "audit", "--module", str(checks), "--query", about(order), "--json")
    finally:
        await planted(house, "UPDATE payments SET amount = amount - 1 WHERE order_id = %(order)s", order=order.order_id)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    mine = [one for one in found["violations"] if one["order_id"] == order.order_id]
    assert {4, "every order that completed is paid in full"} <= {one["invariant"] for one in mine}
    assert found["own"]["checked"] == 3
    assert "colour" in found["own"]["broken"][0]["error"]


async def test_somebody_elses_workflows_are_audited_by_own_invariants(
    house: House, settings: Settings, running: stack.Stack, checks: Path
) -> None:
    """Frames of histories and of the book: what breaks an invariant is named by its workflow, and what holds is clean.
    The book has the attempt that a history forgets."""
    checks.write_text(FOREIGN)
    plugin = TrellisPlugin(database_url=running.database_url, settings=settings)
    async with worker(house.desk.client, plugin):
        id_ = await run(house.desk.client)
        query = await listed(house.desk.client, id_, 1)
    report = await audit(house.desk.client, house.pool, query=query, own=invariants_of(str(checks)))
    mine = [one for one in report.violations if isinstance(one.invariant, str)]
    assert [(one.order_id, one.invariant, one.sentence) for one in mine] == [
        (id_, "no run of Many retries", "third_time was tried again"),
        *[(id_, "no attempt of Many fails", "it breaks: no attempt of Many fails")] * 2,
    ]
    assert report.broken == []
    assert report.own == 3
    assert not report.void


async def test_a_query_that_finds_nothing_makes_the_audit_void(house: House, checks: Path) -> None:
    """Nothing was checked, so nothing is proved."""
    checks.write_text(FOREIGN)
    query = "WorkflowId = 'nobody-has-this-id'"
    report = await audit(house.desk.client, house.pool, query=query, own=invariants_of(str(checks)))
    assert report.void
    # The book may have flights of other tests.
    assert report.nothing_to_check[:2] == ["no run of Many retries", "each run of Many completes"]


async def test_a_module_that_cannot_be_used_is_one_sentence_of_the_command(settings: Settings, checks: Path) -> None:
    """Exit code 1, before anything is read."""
    done = await trellis(settings, "audit", "--module", str(checks))
    assert done.returncode == 1
    assert "There is no file" in done.stderr
    assert "Traceback" not in done.stderr
