"""The command line as a user types it: real processes, exit codes, sentences."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from tests.conftest import House
from trellis import stack
from trellis.cli import app
from trellis.config import Settings
from trellis.faults import FaultPlan
from trellis.model import FORWARD_OUTSIDE_STEPS, Address, State, workflow_id
from trellis.outages import Capacity
from trellis.policies import preset, tuned

ROOT = Path(__file__).resolve().parents[2]


async def trellis(settings: Settings, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRELLIS_")}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "trellis", *words],
        env=clean | {"TRELLIS_HOME": str(settings.home), "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=110,
    )


async def test_an_order_is_driven_from_the_command_line(house: House, settings: Settings) -> None:
    """start, status, update-address, approve, events and list, each with exit code 0 and JSON where asked."""
    order = house.order()
    start = ["order", "start", order.order_id, "--payment-id", order.payment_id, "--json"]
    body = ["--items", '[{"name": "book", "qty": 1, "price": "9.99"}]', "--address", '{"street": "1 Main St"}']
    started = await trellis(settings, *start, *body)
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["created"]
    assert not json.loads((await trellis(settings, *start, *body)).stdout)["created"]
    other = await trellis(settings, *start)
    assert other.returncode == 1
    assert "another body" in other.stderr
    await house.until(order, "AWAITING_APPROVAL")
    moved = await trellis(settings, "order", "update-address", order.order_id, '{"line1": "2 New Road"}')
    assert (moved.returncode, "accepted" in moved.stdout) == (0, True)
    approved = await trellis(settings, "order", "approve", order.order_id, "--json")
    assert json.loads(approved.stdout)["verdict"] == "accepted"
    await house.ends(order, State.COMPLETED)
    status = json.loads((await trellis(settings, "order", "status", order.order_id, "--json")).stdout)
    assert (status["state"], status["payment"]["status"]) == ("COMPLETED", "CHARGED")
    events = json.loads((await trellis(settings, "order", "events", order.order_id, "--json")).stdout)
    assert [event["type"] for event in events] == await house.events(order)
    listed = json.loads((await trellis(settings, "order", "list", "--state", "COMPLETED", "--json")).stdout)
    assert order.order_id in {row["id"] for row in listed}
    # In 80 columns, too: an id that is cut off cannot be copied.
    assert order.order_id in (await trellis(settings, "order", "list")).stdout
    late = await trellis(settings, "order", "cancel", order.order_id)
    assert late.returncode == 1
    assert "COMPLETED" in late.stderr


async def test_what_people_sent_is_printed_as_it_is(house: House, settings: Settings) -> None:
    """Brackets in an address or a reason are no markup, and the event of a refusal or of an ending tells its reason."""
    order = replace(house.order(), address=Address("1 [/b] Street [red]"))
    await house.desk.start(order, tuned(preset("swift"), review_window=60))
    await house.until(order, "AWAITING_APPROVAL")
    status = await trellis(settings, "order", "status", order.order_id)
    assert (status.returncode, "1 [/b] Street [red]" in status.stdout) == (0, True)
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).signal("update_address", {"[/x]": 1})
    await house.until(order, "REQUEST_REFUSED")
    await house.desk.cancel(order.order_id, "too [/b] dear")
    await house.ends(order, State.CANCELLED)
    events = await trellis(settings, "order", "events", order.order_id)
    assert "update_address: The address has an unknown field '[/x]'" in events.stdout
    assert "too [/b] dear" in events.stdout


async def test_status_counts_orders_and_workers(house: House, settings: Settings) -> None:
    """`status --json` has the four keys that scripts rely on."""
    result = json.loads((await trellis(settings, "status", "--json")).stdout)
    assert set(result) == {"temporal", "database", "workers", "orders"}
    assert {"address", "ui", "namespace"} == set(result["temporal"])
    assert {worker["queue"] for worker in result["workers"]} == {settings.orders_queue, settings.shipping_queue}


@pytest.mark.slow
async def test_faults_are_shown_and_set(house: House, settings: Settings) -> None:
    """A plan set on the command line is the plan in force."""
    done = await trellis(settings, "faults", "set", "--error", "0.25", "--step", "charge", "--seed", "7", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads((await trellis(settings, "faults", "show", "--json")).stdout)["plan"]
    assert (plan["steps"]["charge"]["error"], plan["seed"]) == (0.25, 7)
    wrong = await trellis(settings, "faults", "set", "--error", "1.5")
    assert (wrong.returncode, "from 0 to 1" in wrong.stderr) == (1, True)
    # A window, in words; what was set before stays.
    outage = ("--outage", "charge:1000:10:hang", "--capacity", "ship:2:0.5")
    shown = (await trellis(settings, "faults", "set", *outage)).stdout
    assert "charge hangs from 1000 s to 1010 s" in shown
    assert "serves 2 calls at once, 0.5 s each: 4 a second" in shown
    in_force = (await house.desk.faults()).plan
    assert (in_force.seed, in_force.capacity) == (7, {"ship": Capacity(2, 0.5)})
    wrong = await trellis(settings, "faults", "set", "--capacity", "ship:0:0.5")
    assert (wrong.returncode, "from 1 to 1000 calls at once, not 0" in wrong.stderr) == (1, True)
    assert (await trellis(settings, "faults", "set")).returncode == 2


@pytest.mark.parametrize(
    ("words", "environment", "code", "sentence"),
    [
        (["order", "status", "nobody"], {}, 1, "no order"),
        (["order", "status", "../etc"], {}, 1, "order id"),
        (["order", "start", "x", "--payment-id", "p", "--items", "[{"], {}, 1, "must be JSON"),
        (["order", "start", "x", "--payment-id", "p", "--items", '[{"sku":"a","price":NaN}]'], {}, 1, "finite"),
        (["order", "start", "x", "--payment-id", "p", "--items", '[{"sku":"a","quantity":-1}]'], {}, 1, "quantity"),
        (["order", "start", "x", "--payment-id", "p", "--policy", "fast"], {}, 1, "Choose one of"),
        (["order", "start", "x", "--payment-id", "p", "--set", '{"hedge": 99}'], {}, 1, "hedge"),
        (["order", "start", "x", "--payment-id", "p", "--set", '{"steps": {"dance": {}}}'], {}, 1, "dance"),
        (["order", "start", "x", "--payment-id", "p", "--set", "[]"], {}, 1, "must be a JSON object"),
        (["order", "list", "--state", "LOST"], {}, 1, "Known are"),
        (["status"], {"TRELLIS_POLCY": "swift"}, 1, "check the spelling"),
        (["status"], {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}, 1, "does not answer"),
        (["status"], {"TEMPORAL_ADDRESS": "127.0.0.1:1"}, 1, "TEMPORAL_ADDRESS"),
        (["worker", "--queues", "ordres"], {}, 1, "no queue"),
        (["worker", "--queues", "ordres", "--check"], {}, 1, "no queue"),
        (["worker", "--check"], {"SHIPPING_TASK_QUEUE": "nobody-there"}, 1, "polled nobody-there in"),
        (["worker"], {"TRELLIS_POLICY": "swfit"}, 1, "no policy 'swfit'"),
        (["worker"], {"TRELLIS_FAULTS": "nonsense"}, 1, "The fault plan 'nonsense'"),
        (["order"], {}, 2, "Usage"),
        (["no-such-command"], {}, 2, "No such command"),
    ],
)
@pytest.mark.slow
async def test_a_mistake_is_one_sentence(
    house: House, settings: Settings, words: list[str], environment: dict[str, str], code: int, sentence: str
) -> None:
    """A mistake gives its exit code and a sentence, never a traceback, and starts nothing."""
    before = await house.one("SELECT count(*) FROM orders")
    result = await trellis(settings, *words, **environment)
    assert result.returncode == code, result.stderr
    assert sentence in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert await house.one("SELECT count(*) FROM orders") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("order start", "Missing argument 'order_id'."),
        ("order startt", "No such command 'startt'."),
        ("load --orders 0", "greater than or equal to 1. `"),
        ("order", "A command is needed."),
        ("recommend --from-events --query x", "not both"),
    ],
)
async def test_wrong_usage_is_json_where_json_was_asked_for(settings: Settings, words: str, sentence: str) -> None:
    """One record on stderr and exit code 2, in place of the box that a person gets."""
    said = await trellis(settings, *words.split(), LOG_FORMAT="json")
    (line,) = said.stderr.splitlines()
    record = json.loads(line)
    assert (said.returncode, record["level"]) == (2, "error")
    assert sentence in record["event"]


async def test_a_policy_is_recommended(house: House, settings: Settings) -> None:
    """From the canonical faults or this ledger's orders; where the goal is out of reach, it names the best."""
    done = await trellis(settings, "recommend", "--deadline", "15", "--epsilon", "1e-5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"policy", "p_miss", "p50", "p99", "calls_per_step"} <= set(found)
    assert 0 < found["p_miss"] <= 1e-5
    assert found["p50"] < found["p99"] < 15
    assert found["outage_calls"]["times_usual"] > 1
    assert found["stress"] is None
    stress = ["--outage", "3", "--capacity", "2", "--service", "0.1", "--rate", "1"]
    found = json.loads((await trellis(settings, "recommend", *stress, "--json")).stdout)
    assert found["stress"]["drained_s"] >= 0
    assert found["stress"]["outage_s"] == 3
    await house.faults(FaultPlan.canonical())
    orders = [await house.start(approve=True) for _ in range(4)]
    for order in orders:
        await house.desk.wait(order.order_id)
    learned = json.loads((await trellis(settings, "recommend", "--epsilon", "0.01", "--from-events", "--json")).stdout)
    assert set(learned["learned"]) == {str(step) for step in FORWARD_OUTSIDE_STEPS}
    assert learned["trust"] == all(check["ok"] for check in learned["checks"])
    assert [check["name"] for check in learned["checks"]] == ["enough", "independent", "durations", "chain"]
    # A few orders prove little. Then nothing better than what they measured is printed.
    assert learned["p_miss"] <= 0.01 or not learned["trust"]
    assert learned["p_miss_at_worst"] >= learned["p_miss"]
    none = await trellis(settings, "recommend", "--from-events", "--until", "2001-01-01")
    assert (none.returncode, "No order began in this time" in none.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--deadline", "0.2", "--epsilon", "1e-9"], 1, "No policy reaches 1e-09 in 0.2 s; the best is"),
        (["--from-events", "--query", 'WorkflowType = "Trip"'], 2, "not both"),
        (["--query", 'WorkflowType = "OrderWorkflow"'], 1, "use --from-events"),
        (["--epsilon", "nan"], 1, "epsilon between 0 and 1"),
        (["--from-events", "--since", "yesterday"], 2, "an age such as 30m, 2h or 3d"),
        (["--since", "2h"], 2, "give --from-events or --query"),
        (["--overhead", "-1"], 2, "0 or more"),
        (["--steps", "charge,, ship"], 1, "'"),
        (["--outage", "5", "--capacity", "0", "--rate", "1"], 1, "at least one call at once"),
        (["--rate", "3"], 2, "give --outage, --capacity or both"),
    ],
)
@pytest.mark.slow
async def test_a_wish_that_cannot_be_had_is_one_sentence(
    house: House, settings: Settings, words: list[str], code: int, sentence: str
) -> None:
    """A goal out of reach, contradicting options, a wrong ledger, no number: a sentence and the right exit code."""
    order = await house.start(approve=True)
    await house.desk.wait(order.order_id)
    done = await trellis(settings, "recommend", *words)
    assert done.returncode == code, done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "audit --orders 20",
        "events --rows 100 --batches 50",
        "board --orders 2 --rounds 1 --per-round 4",
    ],
)
@pytest.mark.slow
async def test_a_benchmark_that_fills_a_ledger_never_fills_the_one_named(tmp_path: Path, words: str) -> None:
    """Made-up orders go to a stack of its own, whichever servers the settings name."""
    named = {"DATABASE_URL": "postgresql://nowhere.invalid/x", "TEMPORAL_ADDRESS": "nowhere.invalid:1"}
    settings = Settings.model_validate({"TRELLIS_HOME": tmp_path})
    done = await trellis(settings, "bench", *words.split(), "--json", **named)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.slow
async def test_the_deadline_benchmark_prints_figures_and_nothing_else(tmp_path: Path) -> None:
    """Six orders with a budget that ends none of them: all COMPLETED, beside what was predicted for this policy."""
    settings = Settings.model_validate({"TRELLIS_HOME": tmp_path})
    done = await trellis(settings, "bench", "deadline", "--orders", "6", "--budget", "120", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["policy"], result["orders"], result["states"]) == ("swift", 6, {"COMPLETED": 6})
    assert 0 < result["p50"] <= result["max"]
    assert result["interval"][0] <= result["missed"] / 6 <= result["interval"][1]
    assert 1.4 < result["predicted"]["p50"] < result["predicted"]["p99"]
    refused = await trellis(settings, "bench", "deadline", "--budget", "0.1")
    assert refused.returncode == 1
    assert "whole budget" in refused.stderr


@pytest.mark.slow
async def test_the_advice_benchmark_needs_no_servers(tmp_path: Path) -> None:
    """It learns from about as many attempts as it was asked for, whichever servers the settings name."""
    named = {"DATABASE_URL": "postgresql://nowhere.invalid/x", "TEMPORAL_ADDRESS": "nowhere.invalid:1"}
    settings = Settings.model_validate({"TRELLIS_HOME": tmp_path})
    done = await trellis(settings, "bench", "advice", "--attempts", "3000", "--rounds", "1", "--json", **named)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 2000 < found["attempts"] < 5000
    assert 0 < found["seconds"] == pytest.approx(found["learn_s"] + found["recommend_s"], abs=0.002)


@pytest.mark.slow
async def test_orders_that_used_up_their_rounds_are_counted_apart_from_late_ones(tmp_path: Path) -> None:
    """One round of one try: of twelve orders under canonical faults some fail in dispatch, and none of them is late."""
    settings = Settings.model_validate({"TRELLIS_HOME": tmp_path})
    one_try = json.dumps({"dispatch_retries": 0, "budget": 120, "steps": {"dispatch": {"max_tries": 1}}})
    done = await trellis(settings, "bench", "deadline", "--orders", "12", "--set", one_try, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rounds_used_up"] == found["states"]["FAILED"] > 0
    assert found["missed"] == found["late"] + found["rounds_used_up"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", ["bench deadline --orders 1000 --policy warehouse --concurrency 40", "chaos"])
@pytest.mark.slow
async def test_a_command_that_is_ended_takes_its_servers_along(tmp_path: Path, words: str, how: signal.Signals) -> None:
    """Ctrl-C, and kill where Ctrl-C is ignored, in the middle of its orders: no server of its own stays behind."""
    home = tmp_path / "home"
    ctrl_c = signal.SIG_DFL if how == signal.SIGINT else signal.SIG_IGN
    settings = Settings.model_validate({"TRELLIS_HOME": home})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trellis", *words.split(), "--json",
        env=os.environ | settings.environment() | {"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, ctrl_c),
    )  # fmt: skip

    def running() -> list[Settings]:
        own = [settings.with_own_servers(place) for place in (home, *tmp_path.glob("trellis-*"))]
        return [each for each in own if stack.find(each) is not None]

    async def underway(own: Settings) -> bool:
        """Whether calls fail and hang there: to end is hardest in the middle of activities."""
        found = stack.find(own)
        if found is None:
            return False
        with suppress(psycopg.Error):
            async with await psycopg.AsyncConnection.connect(found.database_url) as connection:
                row = await (await connection.execute("SELECT count(*) FROM events")).fetchone()
                return row is not None and row[0] > (30 if "bench" in words else 0)
        return False

    try:
        async with asyncio.timeout(90):
            while not any([await underway(each) for each in running()]):
                await asyncio.sleep(0.05)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        _, printed = await asyncio.wait_for(process.communicate(), 60)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        left = running()
        for each in left:
            stack.down(each)
    assert process.returncode == 130, printed
    assert b"Traceback" not in printed
    assert not left
    assert not list(tmp_path.glob("trellis-*"))
    assert [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("how", ["Ctrl-C twice", "kill"])
@pytest.mark.slow
async def test_the_lab_ends_with_its_servers_and_its_kernels(tmp_path: Path, how: str) -> None:
    """JupyterLab is asked to end, and ends its kernels, before the servers go."""
    settings = Settings.model_validate({"TRELLIS_HOME": tmp_path / "home"})
    (tmp_path / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": {"allow_root": True, "open_browser": False, "port": 0}})
    )
    places = {
        "JUPYTER_CONFIG_PATH": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"), "IPYTHONDIR": str(tmp_path / "ipython"),
    }  # fmt: skip
    typed, keyboard = pty.openpty()  # without a terminal JupyterLab would not ask
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trellis", "lab",
        env=os.environ | settings.environment() | places, stdin=keyboard, stderr=subprocess.PIPE,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        printed = ""
        async with asyncio.timeout(60):
            while not (link := re.search(r"(http://127\.0\.0\.1:\d+)/lab\S*token=(\w+)", printed)):
                line = await process.stderr.readline()
                assert line, printed
                printed += line.decode()
        kernels = f"{link[1]}/api/kernels?token={link[2]}"
        async with httpx.AsyncClient() as http:
            assert (await http.post(kernels, json={})).status_code == 201
        if how == "kill":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGINT)
            await asyncio.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)
        rest = (await asyncio.wait_for(process.communicate(), 60))[1].decode()
        assert process.returncode == 0, rest
        assert "Kernel shutdown" in rest
        assert stack.find(settings) is None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        os.close(typed)
        os.close(keyboard)
        stack.down(settings)


async def test_without_a_stack_the_sentence_says_what_to_do(settings: Settings, tmp_path: Path) -> None:
    """The first command of a newcomer who forgot `trellis up`."""
    result = await trellis(settings, "order", "list", TRELLIS_HOME=str(tmp_path / "none"))
    assert result.returncode == 1
    assert "trellis up" in result.stderr
    assert not (tmp_path / "none").exists()


def test_every_command_is_in_the_readme() -> None:
    """What can be typed is documented, and what is documented can be typed."""
    readme = (ROOT / "README.md").read_text("utf-8")
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    names |= {str(group.name) for group in app.registered_groups}
    documented = set(re.findall(r"^\| `trellis ([a-z]+)", readme, flags=re.M))
    assert documented == names
