"""The pure parts: words, policies, faults, settings, and who may import whom."""

from __future__ import annotations

import ast
import random
from collections import Counter
from pathlib import Path

import pytest

from trellis import config
from trellis.errors import BadInput, ConfigError
from trellis.faults import FaultPlan, Outcome
from trellis.model import TryId
from trellis.parsing import parse_address, parse_cents, parse_order
from trellis.policies import PRESETS, AtWindowEnd, Jitter, Placement, preset, tuned
from trellis.rules import Budget, root_cause

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "price",
    [
        float("nan"),
        float("inf"),
        "NaN",
        "1.234",
        -1,
        "-0.01",
        True,
        None,
        "x",
        10**30,
        "9" * 40,
        "1e999999",
        "1e-999999",
        "1_000",
        "\uff11\uff12",
        "\u0663",
        "1,50",
    ],
)
def test_a_bad_price_is_refused_with_a_sentence(price: object) -> None:
    """NaN, negatives, third decimals and things that are no numbers never become money."""
    with pytest.raises(BadInput, match=r"^The price must .*\.$"):
        parse_cents(price)


@pytest.mark.parametrize(
    ("price", "cents"), [(12, 1200), ("12.5", 1250), (0.1, 10), (19.99, 1999), ("99999999.99", 9999999999)]
)
def test_a_price_is_exact_in_cents(price: object, cents: int) -> None:
    """Prices become cents without rounding."""
    assert parse_cents(price) == cents


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"sku": "a", "quantity": -1}, "quantity"),
        ({"sku": "a", "quantity": 1.5}, "quantity"),
        ({"quantity": 1}, "sku"),
        ({"sku": "a", "qty": 1, "quantity": 1}, "not both"),
        ({"sku": "a", "colour": "red"}, "unknown field"),
        ("a", "object"),
    ],
)
def test_a_bad_item_names_its_field(item: object, sentence: str) -> None:
    """A malformed item is refused by a sentence that says which field."""
    with pytest.raises(BadInput, match=sentence):
        parse_order("a", "p", [item])


@pytest.mark.parametrize("id_", ["", "-a", "a b", "../x", "a" * 65, "x'; drop table orders", None, 5, "a\n"])
def test_a_bad_id_is_refused(id_: object) -> None:
    """Ids are letters, digits and a few marks."""
    with pytest.raises(BadInput, match="order id"):
        parse_order(id_, "p")


def test_aliases_make_the_same_order() -> None:
    """name/qty and street say the same as sku/quantity and line1, down to the fingerprint."""
    one = parse_order("a", "p", [{"sku": "x", "quantity": 2, "price": "1.00"}], {"line1": "s", "city": "c"})
    two = parse_order("a", "p", [{"name": "x", "qty": 2, "price": 1}], {"street": " s ", "city": "c"})
    assert one == two
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    "address",
    [
        {},
        {"line1": ""},
        {"line1": "a\x00b"},
        {"line1": "a\x9b31mb"},
        {"line1": "a\u202eb"},
        {"line1": "a", "city": "\u2066b"},
        {"line1": 5},
        [],
        {"line1": "a", "planet": "x"},
    ],
)
def test_a_bad_address_is_refused(address: object) -> None:
    """An address needs a line1 of plain text and knows no other fields."""
    with pytest.raises(BadInput, match="address"):
        parse_address(address)


def test_the_presets_are_the_table_of_the_contract() -> None:
    """Six presets, with their windows, timeouts and placements."""
    table = {
        name: (
            p.review_window,
            p.at_window_end,
            p.retry.try_timeout,
            p.retry.first_backoff,
            p.retry.max_backoff,
            p.budget,
        )
        for name, p in PRESETS.items()
    }
    approve, end = AtWindowEnd.APPROVE, AtWindowEnd.TIME_OUT
    assert table == {
        "swift": (30, end, 0.25, 0.005, 0.05, 15),
        "classic": (5, approve, 3, 0.2, 1, 15),
        "compact": (3, approve, 1, 0.1, 1, 15),
        "reviewed": (10, end, 2, 0.5, 2, 15),
        "warehouse": (3, end, 2, 0.2, 1, 15),
        "patient": (300, end, 2, 0.005, 0.2, 120),
    }
    assert PRESETS["swift"].retry.placement is Placement.ACTIVITY
    assert PRESETS["swift"].retry.jitter is Jitter.FULL
    assert PRESETS["patient"].retry.max_tries == 1000
    assert PRESETS["swift"].whole_run == 105


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("swift", {"hedge": 2, "placement": "server"}),
        ("classic", {"jitter": "full"}),
        ("swift", {"first_backoff": 1.0}),
        ("swift", {"try_timeout": 20.0}),
        ("swift", {"budget": 0}),
        ("swift", {"run_timeout": 10.0}),
        ("classic", {"review_window": 20.0}),
        ("swift", {"multiplier": 0.5}),
        ("swift", {"try_timeout": float("nan")}),
        ("swift", {"nonsense": 1}),
        ("swift", {"placement": "moon"}),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(base: str, changes: dict[str, object]) -> None:
    """A policy that cannot be meant gets a sentence, not a surprise."""
    with pytest.raises(ConfigError, match=r"\."):
        tuned(preset(base), **changes)


def _tries(number: int) -> list[TryId]:
    return [TryId(f"o{n}", "charge", 0, 1, 1) for n in range(number)]


def test_the_canonical_plan_is_thirds() -> None:
    """Of 30,000 tries each outcome takes a third, within five standard deviations."""
    counts = Counter(FaultPlan.canonical().outcome(one) for one in _tries(30_000))
    assert set(counts) == {Outcome.OK, Outcome.ERROR, Outcome.HANG}
    assert all(abs(count - 10_000) < 410 for count in counts.values())


def test_an_outcome_depends_on_identity_alone() -> None:
    """Asked again, in any order, a plan gives the same outcomes; another seed gives others."""
    tries = _tries(300)
    first = {one: FaultPlan.canonical(1).outcome(one) for one in tries}
    random.Random(5).shuffle(tries)
    assert {one: FaultPlan.canonical(1).outcome(one) for one in tries} == first
    assert {one: FaultPlan.canonical(2).outcome(one) for one in tries} != first


def test_a_script_fixes_outcomes_by_try_and_round() -> None:
    """Tries in turn, rounds between bars, a star for ever, and ok after the end."""
    plan = FaultPlan.scripted("dispatch: error, hang | reply-lost*; charge: error")

    def at(step: str, round_: int, try_: int, execution: int = 1) -> Outcome:
        return plan.outcome(TryId("o", step, round_, execution, try_))

    assert [at("dispatch", 1, n) for n in (1, 2, 3)] == [Outcome.ERROR, Outcome.HANG, Outcome.OK]
    assert at("dispatch", 1, 1, execution=2) is Outcome.HANG
    assert at("dispatch", 2, 9) is Outcome.REPLY_LOST
    assert at("dispatch", 7, 1) is Outcome.REPLY_LOST
    assert at("charge", 0, 2) is Outcome.OK
    assert at("receive", 0, 1) is Outcome.OK


@pytest.mark.parametrize(
    "text", ["", "weird", "{", "[1]", "nostep: ok", "charge: maybe", '{"mix": {"error": 2}}', '{"x": 1}']
)
def test_a_fault_plan_that_cannot_be_read_is_refused(text: str) -> None:
    """Plans come from people; each mistake gets a sentence."""
    with pytest.raises(ConfigError):
        FaultPlan.parse(text)


def test_a_plan_survives_its_json() -> None:
    """What is stored in the ledger is what comes back."""
    plan = FaultPlan.canonical(3).with_step("charge", error=0.1, latency=0.5)
    assert FaultPlan.from_json(plan.to_json()) == plan


def test_backoff_doubles_to_its_ceiling_and_jitter_spreads_it() -> None:
    """5, 10, 20, 40, 50, 50 ms; full jitter takes a uniform share."""
    retry = preset("swift").retry
    steps = [round(retry.backoff(n, 0.999999) * 1000) for n in range(1, 7)]
    assert steps == [5, 10, 20, 40, 50, 50]
    assert retry.backoff(3, 0.0) == 0.0
    assert preset("classic").retry.backoff(1, 0.0) == 0.2


def test_a_budget_pauses_during_the_review() -> None:
    """Time in review is given back; a claim ends the budget for good."""
    budget = Budget(10)
    budget.start(100)
    budget.pause(104)
    assert budget.left(500) is None
    budget.start(500)
    assert budget.left(501) == 5
    budget.end()
    assert budget.left(9999) is None


def test_the_root_cause_is_what_the_outside_system_said() -> None:
    """Wrappers on the way are skipped."""
    inner, outer = ValueError("inner"), RuntimeError("outer")
    outer.__cause__ = inner
    assert root_cause(outer) == "inner"


def test_an_unknown_setting_is_an_error() -> None:
    """A misspelt TRELLIS_ name is not silently ignored."""
    with pytest.raises(ConfigError, match="TRELLIS_POLCY"):
        config.load({"TRELLIS_POLCY": "swift"}, None)


def test_aliases_and_bad_values_of_settings() -> None:
    """Older names work, the first name wins, and a value that cannot be used names its variable."""
    assert config.load({"ORDERS_TQ": "a", "TEMPORAL_TARGET": "h:1"}, None).orders_queue == "a"
    assert config.load({"ORDERS_TQ": "a", "ORDERS_TASK_QUEUE": "b"}, None).orders_queue == "b"
    with pytest.raises(ConfigError, match="WORKFLOW_RUN_TIMEOUT_SECONDS"):
        config.load({"WORKFLOW_RUN_TIMEOUT_SECONDS": "soon"}, None)


ALLOWED = {
    "errors": set(),
    "model": set(),
    "parsing": {"errors", "model"},
    "policies": {"errors"},
    "config": {"errors"},
    "messages": {"model", "policies"},
    "rules": {"errors", "model", "parsing"},
    "faults": {"errors", "model"},
    "workflows": {"messages", "model", "rules", "policies", "workflows"},
    "db": {"db", "errors", "faults", "messages", "model", "policies"},
    "activities": {"activities", "db", "faults", "messages", "model", "policies"},
    "stack": {"stack", "config", "errors"},
    "sandbox": set(),
    "workers": {"activities", "config", "db", "errors", "faults", "model", "sandbox", "workflows"},
    "temporal_calls": {"errors"},
    "status": {"db", "errors", "messages", "model", "parsing", "temporal_calls"},
    "desk": {"config", "db", "errors", "messages", "model", "parsing", "policies", "stack", "status", "temporal_calls"},
    "histories": {"messages"},
    "audit": {"db", "errors", "histories", "messages", "model", "temporal_calls", "workers", "workflows"},
    "reconcile": {"activities", "db", "desk", "errors", "histories", "messages", "model", "temporal_calls"},
    "api": {"api", "config", "desk", "errors", "faults", "model", "parsing", "stack"},
    "insight": {"insight", "config", "db", "errors", "faults", "model", "policies", "stack"},
    "lab": {
        "lab",
        "activities",
        "config",
        "db",
        "desk",
        "errors",
        "faults",
        "insight",
        "logs",
        "messages",
        "model",
        "parsing",
        "policies",
        "stack",
        "status",
        "workers",
        "workflows",
    },
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "trellis" else {node.module}
            )
    return found


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_the_import_table_of_the_architecture_holds(part: str) -> None:
    """Each part imports only what the architecture allows it."""
    folder = ROOT / "trellis" / part
    files = list(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    assert files
    for file in files:
        ours = {name.split(".")[1] for name in _imports(file) if name.startswith("trellis.")}
        assert ours <= ALLOWED[part], file.name


def test_only_the_database_layer_imports_the_driver() -> None:
    """psycopg is imported in trellis/db and trellis/stack, and nowhere else; the package root imports nothing."""
    for file in (ROOT / "trellis").rglob("*.py"):
        names = {name.split(".")[0] for name in _imports(file)}
        if file.parent.name not in ("db", "stack"):
            assert not names & {"psycopg", "psycopg_pool"}, file.name
    assert _imports(ROOT / "trellis" / "__init__.py") == set()
