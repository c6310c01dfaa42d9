"""No command shows a password, a token or a key, whatever is wrong with the settings, and nothing stores one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import nbformat
import psutil
import psycopg
import pytest
from nbclient import NotebookClient
from temporalio.client import Client, WorkflowHandle

from tests.integration.http_api import body_of
from trellis import stack
from trellis.model import Order, shipping_workflow_id, workflow_id
from trellis.parsing import parse_order

pytestmark = pytest.mark.slow

SECRET = "s3cr3t-w0rd"
ENCODED = quote("s3cr3t@w0rd", safe="")

# One process runs all commands, one after the other: each would take seconds to start by itself.
WALK = """
import json, os, sys, traceback
import typer
from trellis.cli import app
from trellis.errors import TrellisError

settings, skipped = json.loads(sys.argv[1]), json.loads(sys.argv[2])
clean = dict(os.environ)

def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif " ".join((*path, name)) not in skipped and (*path, "*")[0] + " *" not in skipped:
            given = ["x" for one in command.params if one.param_type_name == "argument" and one.required]
            yes = ["--yes"] if any("--yes" in one.opts for one in command.params) else []
            for one in command.params:
                if one.param_type_name == "option" and one.required:
                    given += [one.opts[0], "x"]
            yield [*path, name, *given, *yes]

ended = []
for number, changes in enumerate(settings):
    os.environ.clear()
    os.environ.update(clean | changes)
    for line in commands(typer.main.get_command(app)):
        try:
            # A command that ends with a code of its own returns it here.
            how = "usage" if app(line, standalone_mode=False) == 2 else "done"
        except TrellisError as error:
            how = "refused"
            print(error, file=sys.stderr)
            traceback.print_exc()
        except BaseException as error:
            how = "usage" if hasattr(error, "exit_code") else type(error).__name__
            traceback.print_exc()
        ended.append([number, " ".join(line), how])
print("\\n" + json.dumps(ended))
"""


def walk(home: Path, settings: list[dict[str, str]], skipped: list[str]) -> tuple[list[tuple[int, str, str]], str]:
    """Run every command under each of the settings: how each ended, and all that was written."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRELLIS_", "TEMPORAL_"))}
    ended = subprocess.run(
        [sys.executable, "-c", WALK, json.dumps(settings), json.dumps(skipped)],
        env=environment | {"TRELLIS_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=home, capture_output=True, text=True, check=True, timeout=110,
    )  # fmt: skip
    return [tuple(one) for one in json.loads(ended.stdout.splitlines()[-1])], ended.stdout + ended.stderr


def profile(home: Path, name: str, text: str) -> dict[str, str]:
    path = home / f"{name}.toml"
    path.write_text(text)
    return {"TEMPORAL_PROFILE": "default", "TEMPORAL_CONFIG_FILE": str(path)}


def test_no_command_shows_a_secret_of_malformed_settings(tmp_path: Path) -> None:
    """Every command under settings that cannot be read: refused in a sentence, and the secret is nowhere."""
    urls = [
        f"mysql://u:{SECRET}@h/d", f"postgresql+nonsense://u:{SECRET}@h/d", f"postgresql://u:{SECRET}@h:x/d",
        f"postgresql://u:{SECRET}%@h/d", f"postgresql://u:{SECRET}/x@h/d", f"postgresql://u@h/d?{SECRET}",
        f"host=h password='{SECRET}", SECRET,
    ]  # fmt: skip
    settings = [
        *({"DATABASE_URL": url} for url in urls),
        {"DATABASE_URL": urls[0], "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"},
        {"TEMPORAL_ADDRESS": f"https://u:{SECRET}@h:7233"},
        {"TRELLIS_API_TOKN": SECRET},
        {"LOG_LEVEL": SECRET},
        {"WORKFLOW_RUN_TIMEOUT_SECONDS": SECRET},
    ]
    ended, written = walk(tmp_path, settings, [])
    assert len({line for _, line, _ in ended}) > 20
    # What reads no settings cannot be refused for them.
    refused = {line for _, line, how in ended if how == "refused"}
    assert {"up", "down", "status", "migrate", "worker", "api", "audit", "order list", "demo"} <= refused
    assert [one for one in ended if one[2] not in ("refused", "usage")] == []
    assert SECRET not in written


def test_no_command_shows_a_secret_of_servers_that_refuse_it(tmp_path: Path, running: stack.Stack) -> None:
    """A well-formed address that leads nowhere, a wrong key, a broken profile: the sentence keeps the secret."""
    nowhere = running.database_url.replace("/trellis?", "/nowhere?").replace("@", f":{ENCODED}@", 1)
    assert nowhere.count(ENCODED) == 1
    temporal = {"TEMPORAL_ADDRESS": running.temporal.address, "LOG_LEVEL": "DEBUG"}
    here = running.database_url
    settings = [
        temporal | {"DATABASE_URL": nowhere},
        temporal | {"DATABASE_URL": f"{nowhere}&sslpassword={SECRET}", "LOG_FORMAT": "json"},
        {"DATABASE_URL": here}
        | profile(tmp_path, "open", f'[profile.default]\naddress = "a:1"\napi_key = "{SECRET}\n'),
        {"DATABASE_URL": here} | profile(tmp_path, "type", f"[profile.default]\napi_key = ['{SECRET}']\n"),
    ]
    slow = ["notebooks", "recommend", "chaos", "bench *", "lab", "demo", "load"]
    ended, written = walk(tmp_path, settings, slow)
    assert {how for _, _, how in ended} <= {"refused", "usage", "done"}
    assert {"up", "status", "worker", "api", "order list"} <= {line for _, line, how in ended if how == "refused"}
    for secret in (SECRET, ENCODED, "s3cr3t@w0rd"):
        assert secret not in written


@pytest.mark.parametrize("spelling", ["postgresql+asyncpg", "postgres", "postgresql+psycopg2"])
def test_status_shows_the_server_without_its_password(tmp_path: Path, running: stack.Stack, spelling: str) -> None:
    """SQLAlchemy's spelling is taken, and what is shown of it holds `***` where the password was."""
    url = running.database_url.replace("postgresql", spelling, 1).replace("@", f":{ENCODED}@", 1)
    environment = os.environ | {
        "TRELLIS_HOME": str(tmp_path), "TEMPORAL_ADDRESS": running.temporal.address, "DATABASE_URL": url,
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "trellis", "up", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    shown = json.loads(ended.stdout)["database"]["url"]
    assert shown.startswith("postgresql://postgres:***@")
    assert "w0rd" not in ended.stdout + ended.stderr


SECRETS = {"password": "s3cr3t-p4ssw0rd", "token": "s3cr3t-t0ken", "key": "s3cr3t-k3y", "guess": "a-wr0ng-t0ken"}

# An error that nobody expected, in a command that holds the settings.
CRASH = """
import sys
from trellis import cli, runtime

def opened(settings, **options):
    url, token = settings.database_url, settings.api_token
    raise RuntimeError(f"planted, with {settings!r}")

runtime.opened = opened
sys.argv = ["trellis", *sys.argv[1:]]
cli.main()
"""
CELLS = (
    "from trellis import lab\nsession = lab.start()\nsession",
    "session.settings", "session.runtime", "session.desk.stack", "vars(session.desk)", "session.pool",
    "order = session.start_order(); order", "session.status(order)", "session.approve('nobody')",
    "session.faults('nonsense')", "session.events(order)", "list(session.log)",
    "import os; from trellis import insight; insight.events(os.environ['DATABASE_URL'].replace('/secrets_', '/no_'))",
    "1 / 0",
)  # fmt: skip


@asynccontextmanager
async def guarded(running: stack.Stack, home: Path) -> AsyncIterator[dict[str, str]]:
    """The environment of a workspace with a password, a token and a key, on a database and queues of its own."""
    tag = uuid.uuid4().hex[:8]
    here = psycopg.conninfo.conninfo_to_dict(running.database_url)
    url = f"postgresql://postgres:{SECRETS['password']}@/secrets_{tag}?host={quote(str(here['host']))}"
    address, namespace = running.temporal.address, running.temporal.namespace
    # Encryption is off: the dev server has none. A key is sent all the same.
    text = (
        f'[profile.default]\naddress = "{address}"\nnamespace = "{namespace}"\napi_key = "{SECRETS["key"]}"\n'
        "[profile.default.tls]\ndisabled = true\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRELLIS_", "TEMPORAL_"))}
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as owner:
        await owner.execute(f"CREATE DATABASE secrets_{tag}".encode())
        try:
            yield clean | profile(home, "guarded", text) | {
                "TRELLIS_HOME": str(home), "DATABASE_URL": url, "TRELLIS_API_TOKEN": SECRETS["token"],
                "ORDERS_TASK_QUEUE": f"orders-{tag}", "SHIPPING_TASK_QUEUE": f"shipping-{tag}",
                "TRELLIS_FAULTS": "charge: error, hang, reply-lost, ok; dispatch: error, reply-lost, ok",
                "LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            }  # fmt: skip
        finally:
            await owner.execute(f"DROP DATABASE secrets_{tag} WITH (FORCE)".encode())


async def asked_for_all(address: str, order: Order, cut: str) -> list[int]:
    """The answers to requests of every kind: without a token, with a wrong one, malformed, unknown, done, too late."""
    token = {"Authorization": f"Bearer {SECRETS['token']}"}
    path = f"/orders/{order.order_id}"
    async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as http:
        answers = [
            await http.get(f"{path}/status"),
            await http.get(f"{path}/status", headers={"Authorization": f"Bearer {SECRETS['guess']}"}),
            await http.get("/orders/nobody/status", headers=token),
            await http.post(f"{path}/start", content=b"{", headers=token),
            await http.post(f"{path}/start", json=body_of(order), headers=token),
            await http.post(f"{path}/start", json=body_of(order) | {"payment_id": "other"}, headers=token),
        ]
        # Workers and API lose their connections in the middle of the order.
        async with await psycopg.AsyncConnection.connect(cut, autocommit=True) as owner:
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        answers.append(await http.post(f"{path}/signals/approve", headers=token))
        async with asyncio.timeout(60):
            while (await http.get(f"{path}/status", headers=token)).json().get("state") != "COMPLETED":
                await asyncio.sleep(0.2)
        answers.append(await http.post(f"{path}/signals/cancel", headers=token))
    return [answer.status_code for answer in answers]


async def stored(url: str, client: Client, order: Order) -> bytes:
    """Every row of every table, and all of the order's histories, as bytes."""
    found = b""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        tables = await (
            await connection.execute(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'provider')"
            )
        ).fetchall()
        for schema, table in tables:
            rows = await connection.execute(f"SELECT one::text FROM {schema}.{table} AS one".encode())
            found += "\n".join(row[0] for row in await rows.fetchall()).encode()
    for id_ in (workflow_id(order.order_id), shipping_workflow_id(order.order_id, 1)):
        handle: WorkflowHandle[object, object] = client.get_workflow_handle(id_)
        found += (await handle.describe()).raw_description.SerializeToString()
        for event in (await handle.fetch_history()).events:
            found += event.SerializeToString()
    return found


async def test_no_secret_is_stored_or_logged(running: stack.Stack, tmp_path: Path) -> None:
    """An order runs under faults and lost connections, beside errors of every kind. The password, the token and the key
    are in no log, no table, no history, no notebook, no command's output and no command line."""
    order = parse_order("guarded", "pay-guarded", [{"sku": "book"}], {"line1": "1 Main St"})
    async with guarded(running, tmp_path) as environment:

        def command(*words: str) -> str:
            ended = subprocess.run(
                [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
            )
            return ended.stdout + ended.stderr

        texts = {"migrate": await asyncio.to_thread(command, "-m", "trellis", "migrate")}
        processes: list[subprocess.Popen[bytes]] = []
        lines: list[str] = []
        try:
            for line in ("worker", "api --port 0"):
                words = line.split()
                with (tmp_path / f"{words[0]}.log").open("wb") as log:
                    processes.append(
                        subprocess.Popen(  # noqa: ASYNC220 - it is not waited for
                            [sys.executable, "-m", "trellis", *words], env=environment, cwd=tmp_path,
                            stdout=log, stderr=log,
                        )
                    )  # fmt: skip
            async with asyncio.timeout(60):
                while "API at " not in (shown := (tmp_path / "api.log").read_text("utf-8")):
                    assert processes[1].poll() is None, shown[-2000:]
                    await asyncio.sleep(0.1)
            address = shown.partition("API at ")[2].split()[0].rstrip(",")
            codes = await asked_for_all(address, order, environment["DATABASE_URL"])
            lines = [" ".join(psutil.Process(one.pid).cmdline()) for one in processes]
            for name, given in {
                "status": ("-m", "trellis", "status", "--json"),
                # Only this order's history: the servers hold those of all tests before this one.
                "audit": ("-m", "trellis", "audit", "--json", "--query", f"WorkflowId = 'order-{order.order_id}'"),
                "order": ("-m", "trellis", "order", "status", order.order_id, "--json"),
                "crash": ("-c", CRASH, "audit"),
            }.items():
                texts[name] = await asyncio.to_thread(command, *given)
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
            kernel = NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True)
            await kernel.async_execute(env=environment)
        finally:
            for process in processes:
                process.terminate()
                await asyncio.to_thread(process.wait, 30)
        texts |= {path.name: path.read_text("utf-8") for path in tmp_path.rglob("*.log")}
        texts["notebook"] = nbformat.writes(notebook)
        texts["command lines"] = " ".join(lines)
        client = await stack.connect(running.temporal)
        texts["stored"] = (await stored(environment["DATABASE_URL"], client, order)).decode("utf-8", "replace")
    # Each place holds what it should, or the search below would prove nothing.
    assert codes[:6] == [401, 401, 404, 422, 201, 409]
    assert codes[7] == 409
    assert "planted, with Settings(" in texts["crash"]
    assert all(word in texts["notebook"] for word in ("ZeroDivisionError", "AsyncConnectionPool", "TemporalTarget("))
    assert "guarded" in texts["stored"]
    assert "ATTEMPT_TIMED_OUT" in texts["stored"]
    assert json.loads(texts["status"].splitlines()[-1])
    assert len(texts["worker.log"]) > 1000
    leaks = {
        (place, name)
        for place, text in texts.items()
        for name, secret in SECRETS.items()
        if secret in text or quote(secret, safe="") in text
    }
    assert leaks == set()
